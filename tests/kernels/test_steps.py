"""The step and projection ops against their plain-PyTorch twins."""

import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastat.kernels import ops, reference

STEPS = ["linf_step_", "l2_step_", "l1_step_"]
EPS = {"linf": 0.1, "l2": 1.0, "l1": 3.0}
NORM = dict(zip(STEPS, EPS, strict=True))
TOLERANCE = {torch.float32: 3e-7, torch.float64: 3e-15}
P = {"linf": math.inf, "l2": 2, "l1": 1}


def problem(shape, dtype=torch.float32, norm="linf", seed=0):
    """x_adv inside the ball, a gradient, and x."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)
    noise = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    x_adv = reference.project_(x + 0.05 * noise, x, EPS[norm], norm)
    return x_adv, torch.randn(shape, generator=g, dtype=torch.float64).to(dtype), x


def norms(delta, norm):
    return delta.double().flatten(1).norm(P[norm], dim=1) if delta.numel() else delta.new_zeros(len(delta)).double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 17), (3, 3, 8, 8), (7, 1, 5, 5), (2, 3, 4, 5, 6), (4, 3001)])
def test_linf_step_has_the_bits_of_the_twin(shape, dtype):
    x_adv, grad, x = problem(shape, dtype)
    expected = reference.linf_step_(x_adv.clone(), grad, x, 0.03, 0.1)
    assert torch.equal(ops.linf_step_(x_adv, grad, x, 0.03, 0.1), expected)


def test_linf_step_has_the_bits_of_the_textbook_expression():
    x_adv, grad, x = problem((16, 3, 32, 32))
    expected = (x + (x_adv + 2 / 255 * grad.sign() - x).clamp(-8 / 255, 8 / 255)).clamp(0, 1)
    assert torch.equal(ops.linf_step_(x_adv, grad, x, 2 / 255, 8 / 255), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", STEPS)
@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    size=st.floats(0, 2),
    radius=st.floats(0, 4),
    box=st.sampled_from([(0.0, 1.0), (None, None), (0.25, 0.75), (None, 0.5)]),
    seed=st.integers(0, 2**31),
)
def test_steps_agree_with_the_exact_twin(step, dtype, shape, size, radius, box, seed):
    x_adv, grad, x = problem(shape, dtype, NORM[step], seed)
    args = (size, radius, *box)
    exact = getattr(reference, step)(x_adv.clone().double(), grad.double(), x.double(), *args)
    ours = getattr(ops, step)(x_adv.clone(), grad, x, *args)
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=TOLERANCE[dtype] * (1 + size + radius))


@pytest.mark.parametrize("norm", EPS)
@settings(max_examples=60, deadline=None)
@given(shape=st.lists(st.integers(1, 12), min_size=2, max_size=3), scale=st.floats(0, 50), seed=st.integers(0, 2**31))
def test_projection_is_inside_and_agrees_with_the_exact_twin(norm, shape, scale, seed):
    g = torch.Generator().manual_seed(seed)
    x, far = torch.rand(shape, generator=g), scale * torch.randn(shape, generator=g)
    exact = reference.project_(far.clone().double(), x.double(), EPS[norm], norm)
    ours = ops.project_(far.clone(), x, EPS[norm], norm)
    torch.testing.assert_close(ours.double(), exact, rtol=0, atol=3e-7 * (1 + scale))
    assert (norms(ours - x, norm) <= EPS[norm] * (1 + 1e-5) + 1e-5 * scale).all()
    assert ours.min() >= 0 and ours.max() <= 1


def test_l1_projection_is_the_nearest_point_of_ball_and_box():
    # Against a generic solver: projected onto each set in turn with Dykstra's corrections (Boyle and Dykstra 1986).
    g = torch.Generator().manual_seed(3)
    x, far = torch.rand(4, 30, generator=g, dtype=torch.float64), torch.randn(4, 30, generator=g, dtype=torch.float64)
    point, p, q = far - x, 0.0, 0.0
    for _ in range(4000):
        size = (point + p).abs()
        ranked = size.sort(dim=1, descending=True).values
        excess = (ranked.cumsum(1) - 2.0) / torch.arange(1, 31)
        shift = excess.gather(1, (ranked > excess).sum(1, keepdim=True) - 1).clamp(min=0)
        ball = (point + p).sign() * (size - shift).clamp(min=0)
        p = point + p - ball
        point = (x + ball + q).clamp(0, 1) - x
        q = ball + q - point
    torch.testing.assert_close(ops.project_(far.clone(), x, 2.0, "l1") - x, point, rtol=0, atol=1e-9)


def test_l1_step_moves_the_largest_gradients_that_can_move():
    x = torch.full((1, 10), 0.5)
    x_adv = x.clone()
    x_adv[0, 0] = 1.0  # the largest gradient, at its bound already
    grad = torch.tensor([[9.0, -8.0, 7.0, 7.0, 1.0, 0.5, 0.0, float("nan"), 0.1, 0.2]])
    out = ops.l1_step_(x_adv.clone(), grad, x, 0.2, 10.0, sparsity=0.2)  # two coordinates, and one that ties
    moved = (out - x_adv)[0]
    torch.testing.assert_close(moved[1:4], torch.tensor([-0.2, 0.2, 0.2]) / 3)
    assert (moved[[0, 4, 5, 6, 7, 8, 9]] == 0).all()


@pytest.mark.parametrize("step", STEPS)
def test_gradients_that_say_nothing_move_nothing(step):
    x_adv, _, x = problem((6, 40), norm=NORM[step])
    before = x_adv.clone()
    getattr(ops, step)(x_adv, torch.zeros_like(x), x, 0.5, EPS[NORM[step]] * 1.01)
    assert torch.equal(x_adv, before)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("step", STEPS)
def test_a_bad_gradient_stays_in_its_sample(step, bad):
    norm = NORM[step]
    x_adv, grad, x = problem((4, 33), norm=norm)
    clean = getattr(ops, step)(x_adv.clone(), grad, x, 0.3, EPS[norm])
    grad[1, 5] = bad
    grad[2] = bad
    out = getattr(ops, step)(x_adv.clone(), grad, x, 0.3, EPS[norm])
    assert torch.equal(out[[0, 3]], clean[[0, 3]])
    assert out.isfinite().all() and (norms(out - x, norm) <= EPS[norm] * (1 + 1e-5)).all()
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("step", STEPS)
def test_nan_entries_count_as_zero(step, dtype):
    x_adv, grad, x = problem((4, 3, 11), dtype, NORM[step])
    without = grad.clone()
    without[1, 0, 5] = without[2, :, 3:] = 0
    grad[without == 0] = math.nan
    out = getattr(ops, step)(x_adv.clone(), grad, x, 0.3, EPS[NORM[step]])
    expected = getattr(ops, step)(x_adv.clone(), without, x, 0.3, EPS[NORM[step]])
    if step == "l2_step_":  # which then measures what it has stepped, in double
        torch.testing.assert_close(out, expected, rtol=0, atol=TOLERANCE[dtype])
        assert torch.equal(out[[0, 3]], expected[[0, 3]])
    else:
        assert torch.equal(out, expected)
    assert not torch.equal(out[1], x_adv[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("step", STEPS)
def test_infinite_entries_move_by_their_sign(step, dtype):
    grad = torch.tensor([[1.0, math.inf, -2.0, -math.inf, 0.0, math.nan, 3.0, math.inf]], dtype=dtype)
    x = torch.full_like(grad, 0.5)
    sign = torch.tensor([[0.0, 1, 0, -1, 0, 0, 0, 1]], dtype=dtype)
    extra = {"sparsity": 3 / 8} if step == "l1_step_" else {}
    out = getattr(ops, step)(x.clone(), grad, x, 0.25, 10.0, **extra)
    moved = {"linf": 0.25 * grad.nan_to_num(0.0).sign(), "l2": 0.25 * sign / math.sqrt(3), "l1": 0.25 * sign / 3}
    torch.testing.assert_close(out - x, moved[NORM[step]], rtol=0, atol=10 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("scale", [1e300, 1e-300])
def test_l2_step_keeps_doubles_whose_squares_leave_the_range(scale):
    x_adv, grad, x = problem((3, 50), torch.float64, "l2")
    grad[2, 7] = math.nan
    expected = reference.l2_step_(x_adv.clone(), grad, x, 0.1, 1.0)
    out = ops.l2_step_(x_adv.clone(), grad * scale, x, 0.1, 1.0)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-14)


def test_l2_step_keeps_tiny_and_huge_gradients():
    _, grad, x = problem((3, 50))
    x = 0.25 + 0.5 * x
    grads = torch.stack([grad[0] * 1e-38, grad[1] * 1e-42, grad[2] * 1e37])
    out = ops.l2_step_(x.clone(), grads, x, 0.1, 1.0)
    assert torch.allclose(norms(out - x, "l2"), torch.tensor(0.1, dtype=torch.float64), rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("step", STEPS)
def test_half_precision_stays_inside_ball_and_box(step, dtype):
    norm = NORM[step]
    x = torch.rand(8, 3, 16, 16).to(dtype)
    eps = {"linf": 8 / 255, "l2": 0.5, "l1": 4.0}[norm]
    x_adv = x.clone()
    for i in range(5):
        grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(i)).to(dtype)
        getattr(ops, step)(x_adv, grad, x, eps / 2, eps)
        # The radius is rounded to float32, as the arithmetic is.
        assert (norms(x_adv.double() - x.double(), norm) <= eps * (1 + 1e-6)).all()
        assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert (norms(x_adv.double() - x.double(), norm) > eps / 4).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_to_nearest_where_it_may(dtype):
    # Every finite number of the format plus a step, where the ball is too large to matter.
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    values = bits[bits.isfinite()].view(1, -1)
    grad = torch.ones_like(values)
    out = ops.linf_step_(values.clone(), grad, torch.zeros_like(values), 0.37, 1e9, None, None)
    assert torch.equal(out, (values.float() + torch.tensor(0.37)).clamp(-1e9, 1e9).to(dtype)) or torch.equal(
        out[out.isfinite()], (values.float() + torch.tensor(0.37)).to(dtype)[out.isfinite()]
    )


@pytest.mark.parametrize("step", STEPS)
def test_one_radius_and_step_per_sample(step):
    norm = NORM[step]
    x_adv, grad, x = problem((5, 3, 6, 6), norm=norm)
    eps = torch.linspace(0, EPS[norm], 5)
    size = torch.linspace(0.3, 0.1, 5)
    out = getattr(ops, step)(x_adv.clone(), grad, x, size, eps)
    for i in range(5):
        one = slice(i, i + 1)
        alone = getattr(ops, step)(x_adv[one].clone(), grad[one], x[one], size[i].item(), eps[i].item())
        assert torch.equal(out[i : i + 1], alone)
    assert torch.equal(out[0], x[0])
    both = getattr(ops, step)(x_adv.clone(), grad, x, torch.tensor(0.2), torch.tensor(0.05))
    assert torch.equal(both, getattr(ops, step)(x_adv.clone(), grad, x, 0.2, 0.05))


def layouts(t):
    yield "channels last", t.contiguous(memory_format=torch.channels_last)
    yield "permuted samples", t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    yield "batch inside", t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)
    yield "sliced", torch.cat([t, t], dim=3)[..., : t.shape[3]]
    yield "strided", torch.stack([t, t], dim=-1)[..., 0]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("which", range(5))
def test_any_strides(step, which):
    norm = NORM[step]
    x_adv, grad, x = problem((4, 3, 6, 5), norm=norm)
    expected = getattr(ops, step)(x_adv.clone(), grad, x, 0.2, EPS[norm])
    name, other = list(layouts(x_adv))[which]
    strides = other.stride()
    out = getattr(ops, step)(other, grad, x, 0.2, EPS[norm])
    assert out is other and out.stride() == strides, name
    torch.testing.assert_close(out, expected, rtol=0, atol=0 if norm == "linf" else 2e-7)
    name, grad2 = list(layouts(grad))[which]
    assert torch.equal(getattr(ops, step)(x_adv.clone(), grad2, list(layouts(x))[which][1], 0.2, EPS[norm]), expected)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 5), (3, 0)])
def test_empty(step, shape):
    x = torch.zeros(shape)
    assert getattr(ops, step)(x.clone(), x, x, 0.1, 0.1).shape == shape
    assert ops.project_(x.clone(), x, 0.1, NORM[step]).shape == shape


@pytest.mark.parametrize("norm", EPS)
def test_zero_radius_returns_x_clipped(norm):
    x = torch.linspace(-0.5, 1.5, 40).view(2, 20)
    out = ops.project_(torch.rand(2, 20), x, 0.0, norm)
    assert torch.equal(out, x.clamp(0, 1))


def test_more_than_two_to_the_31_elements():
    n = 2**31 + 64
    meminfo = Path("/proc/meminfo")
    available = int(re.search(r"MemAvailable: +(\d+)", meminfo.read_text())[1]) / 2**20 if meminfo.exists() else 0
    if available < 10:
        pytest.skip(f"needs 10 GiB of free memory, {available:.1f} GiB here")
    x = torch.zeros(1, n, dtype=torch.bfloat16)
    x[0, -3:] = torch.tensor([0.25, 0.5, 0.75])
    x_adv = x.clone()
    ops.linf_step_(x_adv, x, x, 0.125, 0.25)  # the gradient may be x itself: its sign is what moves
    assert torch.equal(x_adv[0, -4:], torch.tensor([0, 0.375, 0.625, 0.875], dtype=torch.bfloat16))
    assert x_adv[0, :-3].count_nonzero() == 0


def test_the_version_counter_sees_the_write():
    x_adv, grad, x = problem((3, 8))
    weight = torch.ones(3, 8, requires_grad=True)
    product = (weight * x_adv).sum()
    ops.linf_step_(x_adv, grad, x, 0.1, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_inference_tensors_can_be_written():
    with torch.inference_mode():
        x_adv, grad, x = problem((3, 8))
        ops.linf_step_(x_adv, grad, x, 0.1, 0.1)


def test_a_leaf_that_requires_grad_is_refused():
    x_adv, grad, x = problem((3, 8))
    x_adv.requires_grad_()
    with pytest.raises(RuntimeError, match="requires grad"):
        ops.linf_step_(x_adv, grad, x, 0.1, 0.1)
    with torch.no_grad():
        ops.linf_step_(x_adv, grad, x, 0.1, 0.1)


def test_inputs_that_require_grad_are_constants():
    x_adv, grad, x = problem((3, 8))
    out = ops.l2_step_(x_adv, grad.requires_grad_(), x.requires_grad_(), 0.1, 0.1)
    assert not out.requires_grad


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"grad": torch.zeros(2, 4)}, ValueError, r"grad must have shape \[2, 3\]"),
        ({"x": torch.zeros(2, 3).double()}, TypeError, "x must have dtype torch.float32"),
        ({"x_adv": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "x_adv must be float32"),
        ({"x_adv": [[0.0]]}, TypeError, "x_adv must be a torch.Tensor"),
        ({"eps": -0.1}, ValueError, "eps must be >= 0, got -0.1"),
        ({"eps": math.nan}, ValueError, "eps must be >= 0, got nan"),
        ({"eps": "8/255"}, TypeError, "eps must be a number or a tensor, got str"),
        ({"eps": torch.tensor([0.1, -1.0])}, ValueError, "eps must be >= 0, got -1"),
        ({"eps": torch.zeros(4)}, ValueError, r"one per sample \[2\], or a tensor that broadcasts.*got shape \[4\]"),
        ({"step_size": torch.tensor([1, 2])}, TypeError, "step_size must be a floating-point tensor"),
        ({"lower": 1.0, "upper": 0.0}, ValueError, "lower must be <= upper"),
        ({"x": torch.zeros(2, 3, device="meta")}, ValueError, "x must be on the CPU or a CUDA device, got meta"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    arguments = {"x_adv": torch.zeros(2, 3), "grad": torch.zeros(2, 3), "x": torch.zeros(2, 3)}
    arguments |= {"step_size": 0.1, "eps": 0.1} | change
    with pytest.raises(error, match=message):
        ops.linf_step_(**arguments)


def test_bad_sparsity_and_norm():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="sparsity must be in"):
        ops.l1_step_(x.clone(), x, x, 0.1, 0.1, sparsity=0.0)
    with pytest.raises(ValueError, match="norm must be one of linf, l2, l1, got 'l3'"):
        ops.project_(x.clone(), x, 0.1, "l3")


def test_best_keeps_the_better_samples():
    best_x, x_adv = torch.zeros(4, 3, 2, 2), torch.rand(4, 3, 2, 2)
    best_loss = torch.tensor([0.0, 1.0, -math.inf, 0.5])
    loss = torch.tensor([1.0, 0.5, -3.0, math.nan])
    expected = best_x.clone(), best_loss.clone()
    reference.best_(*expected, x_adv, loss)
    version = best_x._version
    ops.best_(best_x, best_loss, x_adv, loss)
    assert torch.equal(best_x, expected[0]) and torch.equal(best_loss, expected[1])
    assert best_x._version > version
    assert torch.equal(best_x[[0, 2]], x_adv[[0, 2]]) and best_x[[1, 3]].count_nonzero() == 0


def test_best_writes_any_strides():
    best_x = torch.zeros(4, 3, 2, 5)[..., ::2]
    x_adv = torch.rand(4, 3, 2, 3)
    ops.best_(best_x, torch.zeros(4), x_adv, torch.ones(4))
    assert torch.equal(best_x, x_adv)


@pytest.mark.parametrize("step", STEPS)
def test_opcheck_steps(step):
    x_adv, grad, x = problem((3, 2, 4), norm=NORM[step])
    radii, sizes = torch.rand(3), torch.rand(3)
    extra = (1,) if step == "l1_step_" else ()
    op = getattr(torch.ops.fastat, step).default
    torch.library.opcheck(op, (x_adv, grad, x, 0.1, 0.1, None, None, 0.0, 1.0, None, None, *extra))
    torch.library.opcheck(op, (x_adv, grad, x, 0.0, 0.0, sizes, radii, 0.0, 1.0, None, None, *extra))
    ends = torch.zeros(1, 2, 4), torch.ones(3, 2, 4)
    torch.library.opcheck(op, (x_adv, grad, x, 0.1, 0.1, None, None, 0.0, 1.0, *ends, *extra))


def test_opcheck_project_and_best():
    x_adv, _, x = problem((3, 2, 4))
    torch.library.opcheck(torch.ops.fastat.project_.default, (x_adv, x, 0.1, None, 1, 0.0, 1.0, None, None))
    torch.library.opcheck(torch.ops.fastat.best_.default, (x_adv, torch.zeros(3), x, torch.ones(3)))


@pytest.mark.parametrize("step", STEPS)
def test_steps_compile_without_a_graph_break(step):
    norm = NORM[step]
    x_adv, grad, x = problem((3, 2, 4), norm=norm)

    def two_steps(x_adv, grad, x):
        x_adv = x_adv.clone()
        getattr(ops, step)(x_adv, grad, x, 0.1, EPS[norm])
        getattr(ops, step)(x_adv, -grad, x, 0.05, EPS[norm])
        return x_adv * 2

    compiled = torch.compile(two_steps, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x_adv, grad, x), two_steps(x_adv, grad, x))
