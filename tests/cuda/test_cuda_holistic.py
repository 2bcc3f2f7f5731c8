"""HR weights on a GPU: the CPU's and the twin's, in every launch branch, and NaN where they cannot be."""

import math

import pytest
import torch
from cuda_cases import DEVICE, LOSSES, ORDERS, assert_holistic, captured, gpu, holistic, losses_case

import fastat
from fastat.kernels import reference

REAL = [torch.float32, torch.float64]
SIZES = [1, 2, 31, 32, 33, 256, 257, 4096, 4097]  # a warp up to 256, 256 threads up to 4096, 512 above
ALPHAS, RADII = (0.0, 0.05, 0.5, 1 - 1e-6), (0.0, 1e-8, 0.1, 10.0)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("n", SIZES)
def test_holistic_weights(n, kind, dtype):
    losses = losses_case(kind, n, dtype)
    for order in ORDERS:
        for alpha in ALPHAS:
            for r in RADII:
                weights = assert_holistic(losses, alpha, r, order)
                assert weights.sum().item() == pytest.approx(1, abs=1e-5) and weights.min() >= 0
                if kind == "equal":
                    assert weights.unique().numel() == 1


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", [100_003, 1_000_000])
@pytest.mark.parametrize(
    ("kind", "alpha", "r", "order"),
    [
        ("random", 0.05, 0.1, "hd"),
        ("zeros", 0.05, 0.1, "hd"),
        ("random", 0.0, 1e-8, "hd"),
        ("ties", 1 - 1e-6, 10.0, "hd"),
        ("random", 0.05, 0.1, "hr"),
        ("ties", 0.05, 0.1, "hr"),
    ],
)
def test_holistic_weights_of_many(n, kind, alpha, r, order, dtype):
    assert_holistic(losses_case(kind, n, dtype), alpha, r, order)


@pytest.mark.parametrize(("alpha", "r"), [(0.05, 0.1), (0.3, 1e-8)])
@pytest.mark.parametrize("kind", ["random", "ties"])
@pytest.mark.parametrize("n", [2, 33, 257])
@pytest.mark.parametrize("order", ORDERS)
def test_holistic_is_its_twin(order, n, kind, alpha, r):
    losses = losses_case(kind, n, torch.float64)
    weights, value = (t.cpu() for t in holistic(gpu(losses), alpha, r, order))
    exact = reference.holistic_weights(losses, alpha, r, order)
    assert ((weights - exact).abs() / (exact + 1 / n)).max() < 1e-6
    assert value.item() == pytest.approx(exact.dot(losses).item(), rel=1e-9)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("n", [1, 33, 257, 5000])
@pytest.mark.parametrize("order", ORDERS)
def test_a_loss_that_is_not_finite_spoils_its_own_call(order, n, bad):
    losses = gpu(losses_case("random", n))
    before = holistic(losses, 0.05, 0.1, order)
    spoiled = losses.clone()
    spoiled[n // 2] = bad
    weights, value = holistic(spoiled, 0.05, 0.1, order)
    assert weights.isnan().all() and value.isnan()
    after = holistic(losses, 0.05, 0.1, order)
    assert all(map(torch.equal, before, after)) and before[0].isfinite().all()


def test_a_spread_beyond_float64_spoils_its_own_call():
    losses = torch.tensor([-1.7e308, 0.0, 1.7e308], dtype=torch.float64, device=DEVICE)
    assert holistic(losses, 0.05, 0.1)[0].isnan().all()
    assert holistic(losses / 4, 0.05, 0.1)[0].isfinite().all()


@pytest.mark.parametrize(
    ("alpha", "r"),
    [(1.0, 0.1), (1.5, 0.1), (-0.1, 0.1), (math.nan, 0.1), (0.05, -1.0), (0.05, math.inf), (0.05, math.nan)],
)
@pytest.mark.parametrize("n", [33, 257, 5000])
@pytest.mark.parametrize("order", ORDERS)
def test_a_budget_out_of_range_spoils_its_own_call(order, n, alpha, r):
    losses = gpu(losses_case("random", n))
    budgets = torch.tensor([alpha, r], device=DEVICE)
    weights, value = holistic(losses, budgets[0], budgets[1], order)
    assert weights.isnan().all() and value.isnan()
    budgets.copy_(torch.tensor([0.25, 0.5]))
    after = holistic(losses, budgets[0], budgets[1], order)
    assert all(map(torch.equal, after, holistic(losses, 0.25, 0.5, order)))


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("order", ORDERS)
def test_budgets_may_be_tensors_on_the_device(order, dtype):
    losses = gpu(losses_case("random", 300))
    alpha, r = torch.tensor([0.05, 0.1], dtype=dtype, device=DEVICE).unbind()
    expected = holistic(losses, alpha.item(), r.item(), order)
    for pair in ((alpha, r), (alpha.item(), r), (alpha, r.item())):
        assert all(map(torch.equal, holistic(losses, *pair, order), expected))
    with pytest.raises(ValueError, match="0-d floating-point"):
        fastat.holistic_weights(losses, alpha.view(1), r)


@pytest.mark.parametrize("n", [33, 1024, 5000])
@pytest.mark.parametrize("order", ORDERS)
def test_captured_weights_follow_losses_and_budgets(order, n):
    losses, budgets = gpu(losses_case("random", n)).clone(), torch.tensor([0.05, 0.1], device=DEVICE)
    graph, (weights, value) = captured(lambda: holistic(losses, budgets[0], budgets[1], order))
    for seed, pair in ((1, (0.0, 0.3)), (2, (0.2, 0.01)), (3, (0.1, 0.0))):
        losses.copy_(losses_case("ties" if seed == 2 else "random", n, seed=seed))
        budgets.copy_(torch.tensor(pair))
        graph.replay()
        expected = holistic(losses, budgets[0], budgets[1], order)
        assert torch.equal(weights, expected[0]) and torch.equal(value, expected[1])
