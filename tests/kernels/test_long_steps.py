"""Steps that are long beside the ball, gradients that are tiny, and perturbations that cancel."""

import math

import pytest
import torch

import fastat
from fastat.kernels import ops, reference

NORMS = ["linf", "l2", "l1"]
P = {"linf": math.inf, "l2": 2, "l1": 1}


def distance(x_adv, x, norm):
    return (x_adv.double() - x.double()).flatten(1).norm(P[norm], dim=1)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(
    "size",
    [1e39, math.inf, 10**400, torch.tensor(math.inf), torch.tensor([math.inf, 0.1])],
    ids=["1e39", "inf", "10**400", "a tensor", "one of each sample"],
)
def test_a_step_without_end_is_refused(size, norm):
    x = torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"step_size must be at most 3.40282e\+38, got"):
        ops.STEPS[norm](x.clone(), torch.ones_like(x), x, size, 0.1)
    for attack in (fastat.pgd, fastat.fgsm):
        with pytest.raises(ValueError, match="step_size must be"):
            attack(lambda t: t.flatten(1), x, torch.tensor([0, 1]), 0.1, step_size=size, norm=norm)


def test_a_float64_step_that_float32_does_not_hold_is_refused_in_a_tensor():
    x = torch.rand(2, 3)
    with pytest.raises(ValueError, match="step_size"):
        ops.linf_step_(x.clone(), x, x, torch.tensor(1e39, dtype=torch.float64), 0.1)
    wide = x.double()
    moved = ops.linf_step_(wide.clone(), wide, wide, 1e39, 0.1, None, None)
    torch.testing.assert_close(moved, wide + 0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_an_infinite_step_that_nobody_looked_at_goes_to_the_boundary(norm):
    """As on CUDA, where sizes in tensors are not looked at: the op beneath the wrapper."""
    x = torch.full((2, 4), 0.5)
    grad = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    x_adv, infinite = x.clone(), torch.full((2,), math.inf)
    selected = (1,) if norm == "l1" else ()
    op = getattr(torch.ops.fastat, f"{norm}_step_")
    op(x_adv, grad, x, 0.0, 0.1, infinite, None, -math.inf, math.inf, None, None, *selected)
    torch.testing.assert_close(x_adv, x + 0.1 * grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("box", [(0.0, 1.0), (None, None)])
@pytest.mark.parametrize("size", [0.1, 1.0, 1e3, 1e10, 1e38])
@pytest.mark.parametrize("gradient", [1e-45, 1e-40, 1e-38, 5.7e-35, 1e-29, 1e-2, 1.0, 1e30])
def test_l2_steps_of_any_length_along_gradients_of_any_size(gradient, size, box, dtype):
    x = torch.full((1, 4), 0.5, dtype=dtype)
    grad = torch.tensor([[1.0, 1.0, -1.0, 0.0]], dtype=torch.float64).mul(gradient).to(dtype)
    expected = x.double() + 0.05 * grad.sign().double() / math.sqrt(3)
    found = ops.l2_step_(x.clone(), grad, x, size, 0.05, *box)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("gradient", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("eps", [1e-20, 1e-30])
def test_l2_steps_into_a_ball_that_is_tiny(gradient, eps):
    """Scaled, the step along a large gradient has a factor that no float holds."""
    g = torch.Generator().manual_seed(0)
    x = torch.zeros(3, 15)
    x_adv, grad = 0.05 * torch.randn(x.shape, generator=g), gradient * (1 + torch.rand(x.shape, generator=g))
    found = ops.l2_step_(x_adv.clone(), grad, x, 0.1, eps, -1.0)
    expected = reference.l2_step_(x_adv.double(), grad.double(), x.double(), 0.1, eps, -1.0)
    torch.testing.assert_close(found.double() / eps, expected / eps, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e10, 1e30])
def test_l2_step_that_undoes_what_was_far_away(size, dtype):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 20, generator=g, dtype=dtype)
    direction = torch.randn(3, 20, generator=g, dtype=torch.float64)
    direction /= direction.norm(dim=1, keepdim=True)
    far = (x.double() - size * direction).to(dtype)
    for share in (1.0, 1 - 1e-3, 1 + 1e-9):
        found = ops.l2_step_(far.clone(), direction.to(dtype), x, share * size, 0.25, None, None)
        assert found.isfinite().all()
        assert (distance(found, x, "l2") <= 0.25 * (1 + 1e-6)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_points_anywhere_are_projected_into_the_ball(norm):
    g = torch.Generator().manual_seed(0)
    for dtype, scales in ((torch.float32, (1e20, 1e38)), (torch.float64, (1e20, 1e38, 1e154, 1e300))):
        x = torch.rand(3, 9, generator=g, dtype=dtype)
        for scale in scales:
            far = x + scale * torch.randn(3, 9, generator=g, dtype=dtype).clamp(-3, 3)
            for grad in (None, torch.randn(3, 9, generator=g, dtype=dtype)):
                found = far.clone()
                if grad is None:
                    ops.project_(found, x, 0.5, norm, None, None)
                else:
                    ops.STEPS[norm](found, grad, x, 0.1, 0.5, None, None)
                ulp = torch.finfo(dtype).eps
                assert (distance(found, x, norm) <= 0.5 * (1 + 8 * ulp) + 4 * ulp).all(), (scale, norm)
                if norm == "l2" and grad is None:  # all of the direction is kept
                    half = far * 0.5 - x * 0.5
                    unit = (half / half.abs().amax(1, keepdim=True)).double()
                    expected = x.double() + 0.5 * unit / unit.norm(dim=1, keepdim=True)
                    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_of_one_point_is_that_point(norm):
    g = torch.Generator().manual_seed(0)
    x, away, grad = (torch.rand(3, 9, generator=g) for _ in range(3))
    assert torch.equal(ops.project_(away.clone(), x, 0.0, norm), x)
    assert torch.equal(ops.STEPS[norm](away, grad, x, 0.1, 0.0), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("far", [1e20, 1e36, 1e38])
@pytest.mark.parametrize("eps", [1e-8, 1e-6, 1e-3])
def test_small_balls_far_away(eps, far, dtype):
    """Where eps over the distance is below the smallest number of float32."""
    x = torch.zeros(2, 4, dtype=dtype)
    away = torch.tensor([[3.0, 0.0, -4.0, 0.0], [1.0, 0.0, 0.0, 0.0]], dtype=dtype)
    expected = eps * away / away.norm(dim=1, keepdim=True)
    found = ops.project_(away * (far / 5), x, eps, "l2", None, None)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    stepped = ops.l2_step_(away * (far / 5), away, x, far, eps, None, None)
    torch.testing.assert_close(stepped, expected, rtol=1e-6, atol=0)


def test_the_careful_way_has_the_result_of_the_twin():
    """A gradient with a NaN goes that way; its other entries are the step."""
    g = torch.Generator().manual_seed(0)
    x = torch.rand(5, 30, generator=g, dtype=torch.float64)
    adv, grad = (torch.randn(5, 30, generator=g, dtype=torch.float64) for _ in range(2))
    x_adv = x + 0.1 * adv / adv.norm(dim=1, keepdim=True)
    grad[:, 3] = math.nan
    for size, eps in ((0.05, 0.2), (0.5, 0.2), (0.0, 0.05)):
        expected = reference.l2_step_(x_adv.clone(), grad, x, size, eps)
        torch.testing.assert_close(ops.l2_step_(x_adv.clone(), grad, x, size, eps), expected, rtol=0, atol=1e-14)
