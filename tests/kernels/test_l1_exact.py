"""The l1 projection against exact arithmetic, at any distance from the ball."""

from fractions import Fraction

import pytest
import torch

import fastat
from fastat.kernels import ops, reference

FAR = [1e-3, 1.0, 1e3, 1e8, 1e16, 1e20, 1e37, 1e100, 1e200, 1e300]
BOXES = [(0.0, 1.0), (None, None), (0.0, None), (2.0**-10, 1 - 2.0**-10)]


def projected(moved, x, eps, lower, upper):
    """u with x + u the projection of ``moved``, in fractions: the shift lies between two of the points where what is
    kept bends."""
    moved, x, eps = [Fraction(v) for v in moved], [Fraction(v) for v in x], Fraction(eps)
    v = [a - b for a, b in zip(moved, x, strict=True)]
    most = sum(map(abs, v)) + 1
    low = [-most if lower is None else Fraction(lower) - b for b in x]
    high = [most if upper is None else Fraction(upper) - b for b in x]

    def kept(shift):
        shrunk = [max(abs(d) - shift, 0) * (1 if d > 0 else -1) for d in v]
        return [min(max(u, a), b) for u, a, b in zip(shrunk, low, high, strict=True)]

    def size(shift):
        return sum(map(abs, kept(shift)))

    if size(0) <= eps:
        return kept(0)
    bends = {max(abs(d) - abs(end), 0) for ends in (low, high, [0] * len(v)) for d, end in zip(v, ends, strict=True)}
    bends = sorted({Fraction(0), *bends})
    first, last = 0, len(bends) - 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if size(bends[middle]) > eps else (first, middle)
    above, below = size(bends[first]), size(bends[last])
    return kept(bends[first] + (bends[last] - bends[first]) * (above - eps) / (above - below))


@pytest.mark.parametrize("project_", [ops.project_, reference.project_], ids=["kernel", "twin"])
@pytest.mark.parametrize("box", BOXES)
@pytest.mark.parametrize(
    ("dtype", "distance"),
    [(dtype, far) for dtype in (torch.float32, torch.float64) for far in FAR if far < torch.finfo(dtype).max],
)
def test_projection_is_exact_at_any_distance(distance, dtype, box, project_):
    g = torch.Generator().manual_seed(0)
    for eps in (0.125, 66.25, 2.0**-10):
        for n in (1, 5, 40):
            x = torch.rand(1, n, generator=g, dtype=dtype).clamp(2.0**-10, 1 - 2.0**-10)
            x[0, 0] = 2.0**-11  # not in the last box, by less than any eps
            moved = x + distance * torch.randn(1, n, generator=g, dtype=torch.float64).to(dtype).clamp(-3, 3)
            moved[0, : n // 2] = moved[0, 0]  # ties, which only x tells apart
            found = project_(moved.clone(), x, eps, "l1", *box)
            u = [Fraction(a) - Fraction(b) for a, b in zip(found[0].tolist(), x[0].tolist(), strict=True)]
            assert sum(map(abs, u)) <= Fraction(eps) * (1 + Fraction(1, 10**12))
            expected = projected(moved[0].tolist(), x[0].tolist(), eps, *box)
            error = max(abs(a - b) for a, b in zip(u, expected, strict=True))
            assert error <= 16 * torch.finfo(dtype).eps * max(1, eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("box", BOXES[:3])
def test_a_ball_of_one_point_is_that_point(dtype, box):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(4, 37, generator=g, dtype=torch.float64).to(dtype)
    for scale in (1e-4, 1.0, 1e4):
        moved = (x + scale * torch.randn(4, 37, generator=g, dtype=torch.float64)).to(dtype)
        assert torch.equal(ops.project_(moved.clone(), x, 0.0, "l1", *box), x)
        assert torch.equal(reference.project_(moved, x, 0.0, "l1", *box), x)


def test_differences_beyond_the_largest_number():
    for dtype in (torch.float32, torch.float64):
        most = torch.finfo(dtype).max
        x = torch.tensor([[-0.75 * most, 0.0, 1.0]], dtype=dtype)
        moved = torch.tensor([[0.75 * most, most, -most]], dtype=dtype)
        found = ops.project_(moved, x, 0.5, "l1", None, None)
        assert (found - x).double().abs().sum() <= 0.5


@pytest.mark.parametrize("distance", [1e8, 1e20])
def test_attack_from_far_away_ends_in_the_ball(distance):
    torch.manual_seed(0)
    x, y = torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    for steps in (0, 3):
        start = x + distance * torch.randn_like(x)
        x_adv = fastat.pgd(model, x, y, 0.125, norm="l1", steps=steps, start=start, step_size=distance)
        assert ((x_adv.double() - x.double()).abs().flatten(1).sum(1) <= 0.125 * (1 + 1e-12)).all()
