"""Results in half precision are inside the box as it stands in float32, also where its ends are no half numbers."""

import math

import pytest
import torch
from size_cases import SIZES, in_full, problem, size_of

import fastat
from fastat.kernels import ops, reference
from fastat.kernels.arguments import _number_inward
from fastat.kernels.sizes import inward

HALVES = [torch.float16, torch.bfloat16]


def between(result, lower, upper):
    return bool(((result.float() >= lower) & (result.float() <= upper)).all())


@pytest.mark.filterwarnings("ignore:eps is larger than the box")
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("ends", [(0.1, 0.9), (-0.3, 0.7001), (1 / 3, 2 / 3), (-7.77, -0.001)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_numbers(norm, ends, dtype):
    g = torch.Generator().manual_seed(0)
    lower, upper = (torch.tensor(end) for end in ends)
    x = (lower + (upper - lower) * torch.rand(8, 50, generator=g)).to(dtype)
    x[:, 0], x[:, 1] = ends  # rounded, so maybe outside by that
    grad, adv = (torch.randn(8, 50, generator=g).to(dtype) for _ in range(2))
    for eps in (0.05, 3.0):
        found = ops.STEPS[norm]((x + adv).clone(), grad, x, 0.5, eps, *ends)
        assert between(found, lower, upper)
        assert between(ops.project_(x + adv, x, eps, norm, *ends), lower, upper)
        assert between(ops.random_start(x, eps, norm, 3, None, *ends), lower, upper)
        if norm == "linf":
            assert torch.equal(found, reference.linf_step_((x + adv).clone(), grad, x, 0.5, eps, *ends))
        y = torch.zeros(8, dtype=torch.int64)
        model = torch.nn.Linear(50, 3).to(dtype)
        for keep in ("last", "best"):
            inside = x.clamp(*(inward(end, dtype, up=up).to(dtype) for end, up in ((lower, True), (upper, False))))
            result = fastat.pgd(model, inside, y, eps, norm=norm, bounds=ends, steps=3, keep=keep, seed=0)
            assert between(result, lower, upper)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_tensors(norm, name, dtype):
    x_adv, grad, x = problem(dtype)
    lower = size_of(name, 0.0, 0.3)
    upper = lower + 0.4
    low, high = in_full(lower), in_full(upper)
    for sizes in ((lower, upper), (lower, 0.8), (None, upper)):
        floor = low if sizes[0] is not None else torch.full_like(low, -math.inf)
        ceiling = high if isinstance(sizes[1], torch.Tensor) else torch.full_like(high, 0.8)
        assert between(ops.STEPS[norm](x_adv.clone(), grad, x, 0.1, 0.2, *sizes), floor, ceiling)
        assert between(ops.random_start(x, 0.3, norm, 1, None, *sizes), floor, ceiling)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_number_beside_a_tensor(norm, dtype):
    x = torch.zeros(2, 3, dtype=dtype)
    found = ops.STEPS[norm](x.clone(), torch.ones_like(x), x, 0.1, 0.1, 5e-324, torch.ones(3))
    assert (found.double() >= 5e-324).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_a_box_without_a_half_number_in_it_gives_the_nearest(dtype):
    x = torch.full((1, 2), 0.3, dtype=dtype)
    for end in (0.1, 0.2999):
        several = torch.tensor([end, end])
        for lower, upper in ((end, end), (several, several), (end, several), (several, end)):
            found = ops.project_(x.clone(), x, 1.0, "linf", lower, upper)
            assert torch.equal(found, torch.full((1, 2), end).to(dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("up", [True, False])
def test_moving_an_end_inward(dtype, up):
    """By a step at most, to a number that is not outside; of numbers and of tensors alike."""
    g = torch.Generator().manual_seed(0)
    ends = torch.randn(2000, generator=g) * 2.0 ** torch.randint(-30, 14, (2000,), generator=g)
    ends = torch.cat([ends, torch.tensor([0.0, 1.0, -1.0, 1e-30, -1e-30, 60000.0, -60000.0])])
    moved = inward(ends, dtype, up=up)
    assert torch.equal(moved, moved.to(dtype).float())
    assert bool(((moved >= ends) if up else (moved <= ends)).all())
    back = torch.nextafter(moved.to(torch.bfloat16), torch.tensor(-math.inf if up else math.inf, dtype=torch.bfloat16))
    if dtype == torch.bfloat16:
        assert bool(((back.float() < ends) if up else (back.float() > ends)).all())
    assert [_number_inward(end, dtype, up=up) for end in ends.tolist()] == moved.tolist()
