"""The log-odds against the label, log sum exp of the other logits minus its own, at any confidence."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from loss_cases import logits_case

from fastat.kernels import ops, reference

INF, NAN = math.inf, math.nan


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0, 3000.0])
def test_the_direction_is_that_of_the_cross_entropy(scale):
    """Against autograd of the cross-entropy in exact arithmetic: its row divided by 1 - p_y."""
    logits, y, _ = logits_case("log_odds", 6, 5, torch.float32, scale=scale)
    loss, grad = ops.attack_loss(logits, y, "log_odds")
    with mpmath.workdps(8000):
        for i in range(6):
            z = [mpmath.mpf(v) for v in logits[i].tolist()]
            weights = [mpmath.exp(v - z[y[i]]) for v in z]
            total = mpmath.fsum(weights)
            others = total - weights[y[i]]
            assert abs(loss[i].item() - mpmath.log(others)) <= 1e-6 * (1 + abs(mpmath.log(others)))
            assert abs(mpmath.log(mpmath.expm1(mpmath.log(total))) - mpmath.log(others)) < 1e-9
            for j in range(5):
                of_ce = weights[j] / total if j != y[i] else -others / total
                assert abs(grad[i, j].item() - of_ce / (others / total)) <= 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_it_ranks_as_the_cross_entropy_does(dtype):
    logits, y, _ = logits_case("log_odds", 50, 7, dtype)
    loss = ops.attack_loss(logits, y, "log_odds")[0].double()
    ce = F.cross_entropy(logits.double(), y, reduction="none")
    torch.testing.assert_close(F.softplus(loss), ce, rtol=1e-5, atol=1e-6)


def case(logits, label, loss, grad):
    return pytest.param(torch.tensor([logits]), label, loss, torch.tensor([grad]), id=str(logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("logits", "label", "loss", "grad"),
    [
        case([1e30, 0.0, 0.0], 0, -1e30, [-1.0, 0.5, 0.5]),
        case([1e30, 0.0, -1e30], 1, 1e30, [1.0, -1.0, 0.0]),
        case([INF, 1.0, 1.0], 0, -INF, [-1.0, 0.5, 0.5]),
        case([0.0, INF, 1.0], 0, INF, [-1.0, 1.0, 0.0]),
        case([0.0, INF, INF], 0, INF, [-1.0, 0.5, 0.5]),
        case([INF, INF, INF], 0, math.log(2), [-1.0, 0.5, 0.5]),
        case([5.0, -INF, -INF], 0, -INF, [-1.0, 0.5, 0.5]),
        case([-INF, -INF, -INF], 2, math.log(2), [0.5, 0.5, -1.0]),
        case([-INF, 3.0, 3.0], 0, INF, [-1.0, 0.5, 0.5]),
        case([2.0, 2.0, 2.0], 1, math.log(2), [0.5, -1.0, 0.5]),
        case([7.0, NAN, 0.0], 0, NAN, [NAN, NAN, NAN]),
        case([NAN, 0.0, 0.0], 0, NAN, [NAN, NAN, NAN]),
        case([INF, NAN, 0.0], 0, NAN, [NAN, NAN, NAN]),
        case([7.0], 0, -INF, [0.0]),
        case([NAN], 0, NAN, [NAN]),
    ],
)
def test_the_ends_of_the_range(logits, label, loss, grad, dtype):
    y = torch.tensor([label])
    found = ops.attack_loss(logits.to(dtype), y, "log_odds")
    twin = reference.attack_loss(logits.to(dtype), y, "log_odds")
    for ours in (found, twin):
        torch.testing.assert_close(
            ours[0].double(), torch.tensor([loss]).double(), rtol=1e-2, atol=1e-6, equal_nan=True
        )
        torch.testing.assert_close(ours[1], grad.to(dtype), rtol=0, atol=1e-6, equal_nan=True)


def test_neighbours_of_a_bad_row_are_left_alone():
    logits, y, _ = logits_case("log_odds", 5, 6)
    expected = ops.attack_loss(logits, y, "log_odds")
    logits[2, 3], logits[3] = NAN, INF
    found = ops.attack_loss(logits, y, "log_odds")
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours[[0, 1, 4]], theirs[[0, 1, 4]])


def test_a_million_classes():
    g = torch.Generator().manual_seed(0)
    logits = 10 * torch.randn(2, 10**6, generator=g)
    y = torch.tensor([17, 999_999])
    loss, grad = ops.attack_loss(logits, y, "log_odds")
    exact = reference.attack_loss(logits.double(), y, "log_odds")
    torch.testing.assert_close(loss.double(), exact[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), exact[1], rtol=3e-6, atol=1e-12)
    assert (grad[:, :17] > 0).float().mean() > 0.99  # nothing underflows but what is 87 below the largest


def test_a_label_out_of_range_gets_nothing():
    logits = torch.randn(3, 4)
    op = torch.ops.fastat.attack_loss
    loss, grad = op(logits, torch.tensor([0, 4, -1]), ops.LOSS_KINDS.index("log_odds"), None, None)
    assert loss.isnan().tolist() == [False, True, True] and grad[1:].count_nonzero() == 0
