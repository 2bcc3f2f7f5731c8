"""Radii, step sizes and boxes that differ from sample to sample and from element to element."""

import math

import pytest
import torch
from size_cases import OF_SAMPLES, SIZES, in_full, problem, size_of

from fastat.kernels import ops, reference
from fastat.kernels.sizes import spread

STEPS = {"linf": "linf_step_", "l2": "l2_step_", "l1": "l1_step_"}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIZES)
def test_linf_step_has_the_bits_of_the_textbook_expression_element_by_element(name, dtype):
    x_adv, grad, x = problem(dtype)
    eps, step, lower = (size_of(name, *ends) for ends in ((0.01, 0.1), (0.01, 0.05), (0.0, 0.3)))
    upper = lower + 0.4
    out = ops.linf_step_(x_adv.clone(), grad, x, step, eps, lower, upper)
    compute = torch.promote_types(dtype, torch.float32)
    adv, g, x0 = x_adv.to(compute), grad.to(compute), x.to(compute)
    e, s, low, high = (in_full(t).to(compute) for t in (eps, step, lower, upper))
    moved = torch.clamp(adv + s * g.sign() - x0, -e, e) + x0
    expected = torch.minimum(torch.maximum(moved, low), high)
    if dtype in (torch.float32, torch.float64):
        assert torch.equal(out, expected)
    twin = reference.linf_step_(x_adv.clone(), grad, x, step, eps, lower, upper)
    assert torch.equal(out, twin)
    assert torch.equal(ops.linf_step_(x_adv.clone(), grad, x, *(in_full(t) for t in (step, eps, lower, upper))), out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_boxes_of_elements(norm, name, dtype):
    x_adv, grad, x = problem(dtype)
    lower = size_of(name, 0.0, 0.3)
    upper = lower + 0.4
    x = torch.minimum(torch.maximum(x, in_full(lower).to(dtype)), in_full(upper).to(dtype))
    eps, size = {"l2": (0.5, 0.4), "l1": (3.0, 2.0)}[norm]
    ours = getattr(ops, STEPS[norm])(x_adv.clone(), grad, x, size, eps, lower, upper)
    twin = getattr(reference, STEPS[norm])(x_adv.clone(), grad, x, size, eps, lower, upper)
    torch.testing.assert_close(ours, twin, rtol=0, atol={torch.float64: 1e-14, torch.float32: 1e-6}.get(dtype, 0.01))
    assert (ours >= in_full(lower).to(ours) - 0.005 * (dtype.itemsize == 2)).all()
    distance = (ours.double() - x.double()).flatten(1).norm({"l2": 2, "l1": 1}[norm], dim=1)
    assert (distance <= eps + 1e-5).all()
    projected = ops.project_(x_adv.clone(), x, eps, norm, lower, upper)
    expected = reference.project_(x_adv.clone(), x, eps, norm, lower, upper)
    torch.testing.assert_close(projected, expected, rtol=0, atol=1e-6 if dtype.itemsize > 2 else 0.01)


@pytest.mark.parametrize("norm", STEPS)
def test_one_end_alone_may_be_a_tensor(norm):
    x_adv, grad, x = problem()
    upper = size_of("per channel", 0.6, 0.9)
    step = getattr(ops, STEPS[norm])
    out = step(x_adv.clone(), grad, x.clamp(max=0.6), 0.2, 1.0, None, upper)
    assert torch.equal(out, step(x_adv.clone(), grad, x.clamp(max=0.6), 0.2, 1.0, torch.tensor(-math.inf), upper))
    assert (out <= upper).all()


@pytest.mark.parametrize("norm", STEPS)
@pytest.mark.parametrize("name", SIZES)
def test_starts(norm, name):
    x = problem()[2]
    eps = size_of(name, 0.01, 0.1) if norm == "linf" or name in OF_SAMPLES else 0.5
    lower = size_of(name, 0.0, 0.2)
    x = torch.maximum(x, in_full(lower))
    out = ops.random_start(x, eps, norm, 5, lower=lower, upper=0.9)
    twin = reference.random_start(x, eps, norm, 5, lower=lower, upper=0.9)
    torch.testing.assert_close(out, twin, rtol=0, atol=0 if norm == "linf" else 1e-6)
    last = ops.random_start(x.contiguous(memory_format=torch.channels_last), eps, norm, 5, lower=lower, upper=0.9)
    torch.testing.assert_close(last, out, rtol=0, atol=0)


@pytest.mark.parametrize("norm", STEPS)
def test_layouts(norm):
    x_adv, grad, x = problem()
    eps = size_of("all", 0.05, 0.1) if norm == "linf" else size_of("per sample", 0.5, 1.0)
    lower, upper = size_of("per element", 0, 0.2), 1.0
    x = torch.maximum(x, lower)
    expected = getattr(ops, STEPS[norm])(x_adv.clone(), grad, x, 0.2, eps, lower, upper)
    for other in (x_adv.contiguous(memory_format=torch.channels_last), torch.stack([x_adv, x_adv], -1)[..., 0]):
        out = getattr(ops, STEPS[norm])(
            other.clone(memory_format=torch.preserve_format), grad, x, 0.2, eps, lower, upper
        )
        torch.testing.assert_close(out, expected, rtol=0, atol=0 if norm == "linf" else 3e-7)


@pytest.mark.parametrize("name", ["step_size", "eps", "lower", "upper"])
def test_what_may_be_meant_in_two_ways_is_refused(name):
    x = torch.rand(5, 5)
    given = {"step_size": 0.1, "eps": 0.1, "lower": 0.0, "upper": 1.0} | {name: torch.full((5,), 0.5)}
    with pytest.raises(
        ValueError, match=rf"{name} of shape \[5\] may be one per sample or.*view\(-1, 1\).*view\(1, -1\)"
    ):
        ops.linf_step_(x.clone(), x, x, **given)
    for size in (given[name].view(-1, 1), given[name].view(1, -1)):
        ops.linf_step_(x.clone(), x, x, **(given | {name: size}))
    ops.linf_step_(x[:4].clone(), x[:4], x[:4], **given)  # four samples: one per feature
    ops.linf_step_(x[:, :4].clone(), x[:, :4], x[:, :4], **given)  # four features: one per sample
    ops.linf_step_(x[:1].clone(), x[:1], x[:1], **given)


def test_rows_and_columns_are_told_apart():
    size = torch.tensor([0.0, 0.1, 0.2])
    x = torch.full((3, 3), 0.5)
    rows = ops.linf_step_(x.clone(), x, x, 1.0, size.view(3, 1))
    columns = ops.linf_step_(x.clone(), x, x, 1.0, size.view(1, 3))
    torch.testing.assert_close(rows - x, size.view(3, 1).expand(3, 3), rtol=0, atol=1e-7)
    torch.testing.assert_close(columns - x, size.expand(3, 3), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"eps": torch.rand(2)},
            ValueError,
            r"one per sample \[4\], or a tensor that broadcasts against x \[4, 3, 5, 6\]",
        ),
        ({"eps": torch.rand(1, 4, 3, 5, 6)}, ValueError, r"got shape \[1, 4, 3, 5, 6\]"),
        ({"upper": torch.ones(3, dtype=torch.int64)}, TypeError, "upper must be a floating-point tensor"),
        ({"lower": torch.full((3, 1, 1), 2.0)}, ValueError, "lower must be <= upper, got entries"),
        ({"lower": torch.full((3, 1, 1), math.nan)}, ValueError, "lower must be <= upper, got entries"),
        (
            {"lower": torch.tensor(math.inf), "upper": None},
            ValueError,
            r"lower must be at most 3.4\d+e\+38, upper at least",
        ),
        ({"upper": torch.tensor(-math.inf), "lower": None}, ValueError, "got entries that are not"),
        ({"eps": -torch.rand(3, 1, 1)}, ValueError, "eps must be >= 0, got -"),
        ({"eps": torch.rand(3, 1, 1, device="meta")}, ValueError, "eps must be on cpu, got meta"),
    ],
)
def test_errors(change, error, message):
    x_adv, grad, x = problem()
    with pytest.raises(error, match=message):
        ops.linf_step_(x_adv, grad, x, **({"step_size": 0.1, "eps": 0.1} | change))


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("name", ["step_size", "eps"])
def test_a_norm_has_one_radius_for_a_sample(norm, name):
    x_adv, grad, x = problem()
    with pytest.raises(ValueError, match=rf"{name} must be a number or one per sample for norm '{norm}'"):
        getattr(ops, STEPS[norm])(x_adv, grad, x, **({"step_size": 0.1, "eps": 0.1} | {name: torch.rand(3, 1, 1)}))


def test_spread_never_copies():
    x, size = torch.rand(4, 3, 2), torch.rand(4)
    assert spread(size, "eps", x).data_ptr() == size.data_ptr() and spread(size, "eps", x).shape == (4, 1, 1)


def test_compile_without_a_graph_break():
    x_adv, grad, x = problem()
    eps = size_of("per channel", 0.05, 0.1)

    def step(x_adv, grad, x, eps):
        return ops.linf_step_(x_adv.clone(), grad, x, 0.1, eps, lower=eps - 1) * 2

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x_adv, grad, x, eps), step(x_adv, grad, x, eps))
