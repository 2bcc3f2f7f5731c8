"""The ops' contract on CUDA: layouts, random keys, values that say nothing, bookkeeping."""

import math

import pytest
import torch
from cuda_cases import (
    DEVICE,
    DTYPES,
    EPS,
    NORMS,
    SIZE,
    P,
    assert_loss,
    assert_step,
    gpu,
    norms,
    problem,
    step_of,
)
from loss_cases import logits_case

from fastat.kernels import ops, reference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (4099, 3, 8, 8), (2, 3, 224, 224), (37, 1, 28, 28)])
@pytest.mark.parametrize("norm", NORMS)
def test_steps_on_images(norm, shape, dtype):
    if shape[0] > 1000 and dtype == torch.float64:
        pytest.skip("thousands of samples in the other dtypes")
    result = assert_step(norm, *problem(norm, shape, dtype), SIZE[norm], EPS[norm])
    assert result.min() >= 0 and result.max() <= 1


@pytest.mark.parametrize("box", [(None, None), (0.25, 0.75), (None, 0.5)])
@pytest.mark.parametrize("norm", NORMS)
def test_other_boxes(norm, box):
    assert_step(norm, *problem(norm, (7, 3, 9, 9)), SIZE[norm], EPS[norm], *box)


def layouts(t):
    return {
        "channels last": t.contiguous(memory_format=torch.channels_last),
        "permuted samples": t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
        "batch inside": t.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        "sliced": torch.cat([t, t], dim=3)[..., : t.shape[3]],
        "strided": torch.stack([t, t], dim=-1)[..., 0],
        "offset": torch.cat([t.flatten()[:1], t.flatten()])[1:].view(t.shape),
    }


@pytest.mark.parametrize("which", layouts(torch.zeros(1, 1, 1, 1)))
@pytest.mark.parametrize("norm", NORMS)
def test_any_layout(norm, which):
    x_adv, grad, x = map(gpu, problem(norm, (4, 3, 6, 5)))
    expected = step_of(norm)(x_adv.clone(), grad, x, SIZE[norm], EPS[norm])
    atol = 0 if norm == "linf" else 3e-7
    other = layouts(x_adv)[which]
    strides = other.stride()
    result = step_of(norm)(other, grad, x, SIZE[norm], EPS[norm])
    assert result is other and other.stride() == strides
    torch.testing.assert_close(result, expected, rtol=0, atol=atol)
    result = step_of(norm)(x_adv.clone(), layouts(grad)[which], layouts(x)[which], SIZE[norm], EPS[norm])
    torch.testing.assert_close(result, expected, rtol=0, atol=atol)
    start = ops.random_start(layouts(x)[which], EPS[norm], norm, seed=3)
    torch.testing.assert_close(start, ops.random_start(x, EPS[norm], norm, seed=3), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_one_radius_and_step_per_sample(norm, dtype):
    x_adv, grad, x = map(gpu, problem(norm, (5, 3, 6, 6), dtype))
    eps, size = torch.linspace(0, EPS[norm], 5, device=DEVICE), torch.linspace(0.3, 0.1, 5, device=DEVICE)
    result = step_of(norm)(x_adv.clone(), grad, x, size, eps)
    for i in range(5):
        one = slice(i, i + 1)
        alone = step_of(norm)(x_adv[one].clone(), grad[one], x[one], size[i].item(), eps[i].item())
        assert torch.equal(result[one], alone)
    assert torch.equal(result[0], x[0])
    for_all = torch.tensor(0.25, device=DEVICE), torch.tensor(0.0625, device=DEVICE)
    expanded = step_of(norm)(x_adv.clone(), grad, x, *for_all)
    assert torch.equal(expanded, step_of(norm)(x_adv.clone(), grad, x, 0.25, 0.0625))


@pytest.mark.parametrize("norm", NORMS)
def test_the_start_depends_on_the_keys_alone(norm):
    x = torch.rand(6, 3, 5, 4, device=DEVICE)
    ids = torch.tensor([11, 7, 2**40 + 300, 2, 9, 4], device=DEVICE)
    whole = ops.random_start(x, EPS[norm], norm, seed=-(2**62) + 5, sample_ids=ids, draw=3)
    twin = reference.random_start(x, EPS[norm], norm, seed=-(2**62) + 5, sample_ids=ids, draw=3)
    torch.testing.assert_close(whole, twin, rtol=0, atol=0 if norm == "linf" else 1e-6)
    seed = torch.tensor(-(2**62) + 5, device=DEVICE)
    order = torch.tensor([4, 1, 0, 5, 3, 2], device=DEVICE)
    assert torch.equal(ops.random_start(x, EPS[norm], norm, seed, ids, draw=3), whole)
    assert torch.equal(ops.random_start(x[order], EPS[norm], norm, seed, ids[order], draw=3), whole[order])
    assert torch.equal(ops.random_start(x[2:4], EPS[norm], norm, seed, ids[2:4], draw=3), whole[2:4])
    for change in ({"seed": seed + 1}, {"draw": 4}, {"sample_ids": ids + 1}):
        other = ops.random_start(x, EPS[norm], norm, **({"seed": seed, "sample_ids": ids, "draw": 3} | change))
        assert not torch.equal(other, whole)


@pytest.mark.parametrize("norm", NORMS)
def test_the_start_is_uniform_in_the_ball(norm):
    n, batch = 6, 40_000  # in dimension n, (||u|| / eps)^n is uniform on (0, 1)
    x = torch.zeros(batch, n, device=DEVICE)
    radius = (norms(ops.random_start(x, 2.0, norm, 1, lower=None, upper=None), norm) / 2.0) ** n
    grid = torch.linspace(0, 1, 21, dtype=torch.float64, device=DEVICE)
    share = torch.searchsorted(radius.sort().values, grid).double() / batch
    assert (share - grid).abs().max() < 2.5 / math.sqrt(batch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", NORMS)
def test_half_precision_stays_inside(norm, dtype):
    x = torch.rand(64, 3, 16, 16, device=DEVICE).to(dtype)
    eps = {"linf": 8 / 255, "l2": 0.5, "l1": 4.0}[norm]
    x_adv = ops.random_start(x, eps, norm, seed=1)
    for i in range(4):
        grad = torch.randn(x.shape, generator=torch.Generator(DEVICE).manual_seed(i), device=DEVICE).to(dtype)
        step_of(norm)(x_adv, grad, x, eps / 2, eps)
        assert (norms(x_adv.double() - x.double(), norm) <= eps * (1 + 1e-6)).all()
        assert x_adv.min() >= 0 and x_adv.max() <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [33, 64, 20001, 20480])
@pytest.mark.parametrize("norm", NORMS)
def test_a_bad_gradient_stays_in_its_sample(norm, n, bad):
    x_adv, grad, x = map(gpu, problem(norm, (4, n)))
    clean = step_of(norm)(x_adv.clone(), grad, x, SIZE[norm], EPS[norm])
    grad[1, 5], grad[2] = bad, bad
    result = step_of(norm)(x_adv.clone(), grad, x, SIZE[norm], EPS[norm])
    assert torch.equal(result[[0, 3]], clean[[0, 3]])
    rounding = 1e-5 + (6e-8 * n if norm == "l1" else 0)  # of as many coordinates as moved
    assert result.isfinite().all() and (norms(result - x, norm) <= EPS[norm] + rounding).all()
    before = x_adv.clone()
    step_of(norm)(x_adv, torch.zeros_like(grad), x, SIZE[norm], 1.01 * EPS[norm])
    assert torch.equal(x_adv, before)


def test_l2_step_keeps_tiny_and_huge_gradients():
    _, grad, x = map(gpu, problem("l2", (3, 52)))
    x = 0.25 + 0.5 * x
    grads = torch.stack([grad[0] * 1e-38, grad[1] * 1e-42, grad[2] * 1e37])
    result = ops.l2_step_(x.clone(), grads, x, 0.1, 1.0)
    torch.testing.assert_close(
        norms(result - x, "l2"), torch.full((3,), 0.1, dtype=torch.float64, device=DEVICE), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_rows_of_many_classes(kind, dtype):
    assert_loss(kind, *logits_case(kind, 3, 100_000, dtype))


@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_thousands_of_rows(kind):
    assert_loss(kind, *logits_case(kind, 10_007, 10))


def test_a_sure_prediction_keeps_its_digits():
    logits = torch.tensor([[30.0, 0.0, -10.0, -10.0], [90.0, 1.0, 0.0, 0.0]])
    loss, grad = ops.attack_loss(gpu(logits), torch.tensor([0, 0], device=DEVICE))
    others = (logits[:, 1:].double() - logits[:, :1].double()).exp()
    torch.testing.assert_close(loss.cpu().double(), others.sum(1).log1p(), rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.cpu().double()[:, 1:], others, rtol=1e-6, atol=1e-44)
    torch.testing.assert_close(grad.cpu().double()[:, 0], -others.sum(1), rtol=1e-6, atol=1e-44)


def test_the_gradient_is_that_of_autograd():
    logits, y, _ = logits_case("ce", 6, 9)
    leaf = gpu(logits).requires_grad_()
    loss, grad = ops.attack_loss(leaf, gpu(y))
    weight = torch.rand(6, device=DEVICE)
    (weight * loss).sum().backward()
    torch.testing.assert_close(leaf.grad, weight[:, None] * grad)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 5), (3, 0)])
def test_empty(norm, shape):
    x = torch.zeros(shape, device=DEVICE)
    assert step_of(norm)(x.clone(), x, x, 0.1, 0.1).shape == shape
    assert ops.project_(x.clone(), x, 0.1, norm).shape == shape
    assert ops.random_start(x, 0.1, norm, seed=1).shape == shape
    loss, grad = ops.attack_loss(torch.zeros(0, 5, device=DEVICE), torch.zeros(0, dtype=torch.int64, device=DEVICE))
    assert loss.shape == (0,) and grad.shape == (0, 5)


@pytest.mark.parametrize("norm", NORMS)
def test_every_element_of_a_result_is_written(norm):
    # torch fills fresh memory with NaN in this mode, so that an element no kernel wrote shows.
    x = torch.rand(5, 3, 7, 7, device=DEVICE)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert torch.empty(4, device=DEVICE).isnan().all()
        start = ops.random_start(x, EPS[norm], norm, seed=1)
        results = [ops.attack_loss(*map(gpu, logits_case("ce", 33, c)[:2])) for c in (3, 10, 33, 1025)]
        stepped = step_of(norm)(start.clone()[..., ::2], x[..., ::2], x[..., ::2], SIZE[norm], EPS[norm])
    finally:
        torch.use_deterministic_algorithms(False)
    assert not any(t.isnan().any() for t in (start, stepped, *(t for pair in results for t in pair)))
    assert torch.linalg.vector_norm((start - x).flatten(1), P[norm], dim=1).min() > 0


def test_the_version_counter_sees_the_write():
    x_adv, grad, x = map(gpu, problem("linf", (3, 8)))
    product = (torch.ones(3, 8, device=DEVICE, requires_grad=True) * x_adv).sum()
    ops.linf_step_(x_adv, grad, x, 0.1, 0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.backward()


def test_a_leaf_that_requires_grad_is_refused():
    x_adv, grad, x = map(gpu, problem("linf", (3, 8)))
    with pytest.raises(RuntimeError, match="requires grad"):
        ops.linf_step_(x_adv.requires_grad_(), grad, x, 0.1, 0.1)


def test_tensors_on_two_devices_are_refused():
    x_adv, grad, x = problem("linf", (3, 8))
    with pytest.raises(ValueError, match="grad must be on cuda"):
        ops.linf_step_(gpu(x_adv), grad, gpu(x), 0.1, 0.1)
    with pytest.raises(ValueError, match="eps must be on cuda"):
        ops.linf_step_(gpu(x_adv), gpu(grad), gpu(x), 0.1, torch.full((3,), 0.1))
