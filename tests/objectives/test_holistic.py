"""HR weights and losses: against mpmath, a cone solver, the twin, and what must hold for any batch."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from holistic_oracle import cone_value, oracle
from hypothesis import given, settings
from hypothesis import strategies as st

import fastat
from fastat.kernels import objective_ops as ops
from fastat.kernels import reference

ORDERS = ["hd", "hr"]
BUDGETS = [(0, 0), (0, 0.1), (0.1, 0), (0.05, 1e-8), (0.1, 0.1), (0.3, 0.01), (0.001, 10), (0.999, 0.1), (0.25, 10)]
NASTY = {
    "one": [3.0],
    "two": [0.5, 2.0],
    "two equal": [1.5, 1.5],
    "all equal": [0.7] * 7,
    "all zero": [0.0] * 5,
    "ties at the top": [1.0, 5.0, 5.0, 0.2, 5.0, 0.2],
    "ties below": [0.1, 0.1, 0.1, 0.1, 2.0, 3.0, 3.0, 4.0],
    "one huge": [1e8, 0.3, 0.1, 0.7, 0.2, 0.9],
    "zeros and one": [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    "tiny": [1e-30, 3e-30, 2e-30, 5e-31],
    "close together": [1.0, 1.0000001, 1.0000002, 0.9999999, 1.0],
    "like cross-entropy": [0.02, 1.3, 0.0004, 2.9, 0.3, 0.11, 5.1, 0.9, 0.07],
}


def batch(n, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return (-torch.rand(n, generator=g, dtype=torch.float64).clamp(min=1e-9).log()).to(dtype)


def value_of(losses, alpha, r, order):
    return fastat.holistic_loss(losses, alpha, r, order).item()


# ---- against the definition: in 60 digits, and as a cone program


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", NASTY)
def test_value_against_mpmath(name, order):
    for alpha, r in BUDGETS if order == "hd" else BUDGETS[3:]:
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 5e-7)):
            losses = torch.tensor(NASTY[name], dtype=dtype)
            exact = oracle(losses.tolist(), alpha, r, order)
            assert abs(value_of(losses, alpha, r, order) - exact) <= tolerance * abs(exact), (alpha, r, dtype)


@pytest.mark.parametrize("order", ORDERS)
def test_value_of_random_batches_against_mpmath(order):
    for seed, (alpha, r) in enumerate(BUDGETS):
        losses = batch(24 if order == "hd" else 9, seed)
        for data, tolerance in ((losses, 1e-9), (losses.float(), 5e-7)):
            exact = oracle(data.tolist(), alpha, r, order)
            assert abs(value_of(data, alpha, r, order) - exact) <= tolerance * abs(exact), (alpha, r)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("alpha", "r"), [(0.1, 0.1), (0.05, 1.0), (0.3, 0.01), (0, 0.2), (0.2, 1e-3)])
def test_value_against_a_cone_solver(order, alpha, r):
    for n in (2, 8, 40):
        losses = batch(n, seed=n)
        assert value_of(losses, alpha, r, order) == pytest.approx(cone_value(losses.numpy(), alpha, r, order), rel=1e-5)


# ---- the twin


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("order", ORDERS)
def test_agrees_with_the_twin(order, dtype):
    sizes = (1, 2, 3, 16, 17, 100) if order == "hr" else (1, 2, 3, 15, 16, 17, 100, 128, 5000)
    for seed, n in enumerate(sizes):
        losses = batch(n, seed, dtype)
        if seed % 3 == 1:
            losses = (2 * losses).round()
        for alpha, r in ((0.1, 0.1), (0.03, 1e-4), (0, 1), (0.7, 0.3))[:: 1 if n < 50 else 3]:
            weights = fastat.holistic_weights(losses, alpha, r, order)
            exact = reference.holistic_weights(losses.double(), alpha, r, order)
            assert weights.dtype == dtype and not weights.requires_grad
            torch.testing.assert_close(
                weights.double(), exact, rtol=1e-6 if dtype == torch.float32 else 1e-9, atol=1e-12
            )


def test_ten_million_losses():
    losses = batch(10_000_000, dtype=torch.float32)
    alpha, r, n = 0.1, 0.1, 10_000_000
    weights = fastat.holistic_weights(losses, alpha, r).numpy().astype(np.float64)
    assert weights.sum() == pytest.approx(1, abs=1e-6)
    # The atoms as the definition has them, and their divergence from the weights.
    order = np.argsort(losses.numpy(), kind="stable")
    masses = np.full(n, 1 / n)
    masses[order[: n // 10]] = 0
    masses[order[-1]] += alpha
    kept = masses > 0
    assert (weights[~kept] == 0).all()
    assert (masses[kept] * np.log(masses[kept] / weights[kept])).sum() == pytest.approx(r, rel=1e-5)
    # p = q / (eta - l): the losses at which q/p is known lie on a line.
    eta = losses.numpy().astype(np.float64)[order[-1000:-1]]
    ratio = (masses / np.maximum(weights, 1e-300))[order[-1000:-1]]
    slope, intercept = np.polyfit(eta, ratio, 1)
    np.testing.assert_allclose(ratio, slope * eta + intercept, rtol=1e-4)


# ---- what must hold for any batch

losses_of = st.lists(st.floats(0, 100, width=32), min_size=1, max_size=40)
alphas, radii = st.floats(0, 0.99), st.one_of(st.just(0.0), st.floats(1e-8, 10))
close = {"rel": 1e-9, "abs": 1e-9}


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=150, deadline=None)
@given(losses=losses_of, alpha=alphas, r=radii)
def test_weights_are_a_distribution_between_mean_and_maximum(order, losses, alpha, r):
    losses = torch.tensor(losses, dtype=torch.float64)
    weights = fastat.holistic_weights(losses, alpha, r, order)
    value = value_of(losses, alpha, r, order)
    assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert value == pytest.approx((weights * losses).sum().item(), **close)
    assert losses.mean().item() - 1e-9 <= value <= losses.max().item() + 1e-9
    for loss in losses.unique():
        same = weights[losses == loss]
        assert (same == same[0]).all()


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=100, deadline=None)
@given(losses=losses_of, alpha=alphas, r=radii, more=st.floats(0, 1))
def test_grows_with_alpha_and_r(order, losses, alpha, r, more):
    losses = torch.tensor(losses, dtype=torch.float64)
    value = value_of(losses, alpha, r, order)
    slack = 1e-9 * (1 + abs(value))
    assert value_of(losses, alpha + more * (0.99 - alpha), r, order) >= value - slack
    assert value_of(losses, alpha, r + more, order) >= value - slack


@pytest.mark.parametrize("order", ORDERS)
@settings(max_examples=100, deadline=None)
@given(
    losses=losses_of,
    alpha=alphas,
    r=radii,
    scale=st.floats(0.01, 100),
    shift=st.floats(-50, 50),
    seed=st.integers(0, 99),
)
def test_equivariance(order, losses, alpha, r, scale, shift, seed):
    losses = torch.tensor(losses, dtype=torch.float64)
    value, weights = value_of(losses, alpha, r, order), fastat.holistic_weights(losses, alpha, r, order)
    assert value_of(scale * losses, alpha, r, order) == pytest.approx(scale * value, **close)
    assert value_of(losses + shift, alpha, r, order) == pytest.approx(value + shift, **close)
    permutation = torch.randperm(len(losses), generator=torch.Generator().manual_seed(seed))
    permuted = fastat.holistic_weights(losses[permutation], alpha, r, order)
    torch.testing.assert_close(permuted, weights[permutation], rtol=1e-9, atol=1e-12)


def test_without_budgets_it_is_the_mean():
    losses = batch(37)
    for order in ORDERS:
        torch.testing.assert_close(fastat.holistic_weights(losses, 0, 0, order), torch.full_like(losses, 1 / 37))


@pytest.mark.parametrize("order", ORDERS)
def test_budgets_beyond_all_measure(order):
    losses = batch(50)
    for alpha, r in ((0, 1e4), (0.5, 1e300), (1 - 1e-16, 0), (1 - 1e-16, 5), (0.3, 1e-320)):
        weights = fastat.holistic_weights(losses, alpha, r, order)
        assert weights.isfinite().all() and weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert fastat.holistic_weights(losses, 0, 1e4, order)[losses.argmax()] == 1
    smallest = torch.tensor([0, 5e-324], dtype=torch.float64)
    assert torch.equal(fastat.holistic_weights(smallest, 0, 0, order), torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_a_trimmed_loss_may_lie_far_below():
    losses = torch.tensor([-1e150, 0, 1, 0.5], dtype=torch.float64)
    trimmed = torch.tensor([-5.0, 0, 1, 0.5], dtype=torch.float64)
    assert value_of(losses, 0.25, 0.1, "hd") == pytest.approx(value_of(trimmed, 0.25, 0.1, "hd"), rel=1e-12)


# ---- gradients


@pytest.mark.parametrize("order", ORDERS)
def test_gradient_is_the_weights(order):
    losses = batch(20).requires_grad_()
    fastat.holistic_loss(losses, 0.13, 0.2, order).backward(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(losses.grad, 3 * fastat.holistic_weights(losses, 0.13, 0.2, order))
    assert torch.autograd.gradcheck(lambda v: fastat.holistic_loss(v, 0.13, 0.2, order), batch(7).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("order", ORDERS)
def test_cross_entropy(order, dtype):
    g = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(64, 10, generator=g, dtype=torch.float64)).to(dtype).requires_grad_()
    y = torch.randint(10, (64,), generator=g)
    exact = logits.detach().double().requires_grad_()
    value, expected = (
        fastat.holistic_cross_entropy(logits, y, 0.1, 0.2, order),
        reference.holistic_cross_entropy(exact, y, 0.1, 0.2, order),
    )
    value.backward()
    expected.backward()
    compute = torch.float64 if dtype == torch.float64 else torch.float32
    assert value.shape == () and value.dtype == compute and logits.grad.dtype == dtype
    arithmetic = 1e-12 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(value.double(), expected, rtol=arithmetic, atol=0)
    rounding = max(arithmetic, 2 * torch.finfo(dtype).eps)
    torch.testing.assert_close(logits.grad.double(), exact.grad, rtol=rounding, atol=rounding * 0.01)


def test_cross_entropy_gradcheck_and_one_derivative_only():
    logits, y = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 0])
    assert torch.autograd.gradcheck(lambda z: fastat.holistic_cross_entropy(z, y, 0.1, 0.3), logits)
    for loss in (fastat.holistic_cross_entropy(logits, y, 0.1, 0.3), fastat.holistic_loss(logits[:, 0], 0.1, 0.3)):
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad(loss, logits, create_graph=True)


def test_without_budgets_it_is_cross_entropy():
    logits, y = torch.randn(32, 10), torch.randint(10, (32,))
    torch.testing.assert_close(fastat.holistic_cross_entropy(logits, y, 0, 0), F.cross_entropy(logits, y))


# ---- the forms of the arguments


@pytest.mark.parametrize("order", ORDERS)
def test_numpy(order):
    losses = batch(50)
    weights = fastat.holistic_weights(losses.numpy(), 0.1, 0.2, order)
    assert isinstance(weights, np.ndarray) and weights.dtype == np.float64
    assert (weights == fastat.holistic_weights(losses, 0.1, 0.2, order).numpy()).all()
    single = losses.float().numpy()
    assert (fastat.holistic_weights(single, 0.1, 0.2) == fastat.holistic_weights(single.astype(float), 0.1, 0.2)).all()
    assert (fastat.holistic_weights(losses.numpy()[::2], 0.1, 0.2, order) ==
            fastat.holistic_weights(losses.numpy()[::2].copy(), 0.1, 0.2, order)).all()  # fmt: skip


def test_budgets_as_tensors_and_strided_losses():
    losses = batch(50)
    expected = fastat.holistic_weights(losses, 0.1, 0.25)
    alpha, r = torch.tensor(0.1, dtype=torch.float64), torch.tensor(0.25)
    assert torch.equal(fastat.holistic_weights(losses, alpha, r), expected)
    direct, _ = ops.holistic(losses, 0.5, 0.5, alpha, r.double(), 0)
    assert torch.equal(direct, expected)
    strided = torch.stack([losses, losses], dim=1)[:, 0]
    assert not strided.is_contiguous() and torch.equal(fastat.holistic_weights(strided, alpha, r), expected)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_losses_must_be_finite(bad):
    losses = batch(20)
    losses[7] = bad
    with pytest.raises(ValueError, match=f"losses must be finite, got 1 that are not, the first of them {bad}"):
        fastat.holistic_weights(losses, 0.1, 0.1)
    with pytest.raises(ValueError, match="losses must be finite"):
        fastat.holistic_weights(losses.numpy(), 0.1, 0.1)
    with pytest.raises(ValueError, match="losses must be finite"):
        fastat.holistic_loss(losses.requires_grad_(), 0.1, 0.1, "hr")
    weights, value = ops.holistic(losses.detach(), 0.1, 0.1, None, None, 1)  # what CUDA does
    assert weights.isnan().all() and value.isnan()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"losses": torch.zeros(0)}, ValueError, r"at least one, got shape \[0\]"),
        ({"losses": np.zeros(0)}, ValueError, r"at least one, got shape \[0\]"),
        ({"losses": torch.zeros(2, 2)}, ValueError, r"losses must be a vector, got shape \[2, 2\]"),
        ({"losses": torch.zeros(2).half()}, TypeError, "losses must be float32 or float64, got torch.float16"),
        ({"losses": torch.zeros(2).long()}, TypeError, "losses must be float32"),
        ({"losses": np.zeros(2, dtype=int)}, TypeError, "losses must be floating-point, got int64"),
        ({"losses": [0.1, 0.2]}, TypeError, "losses must be a torch.Tensor, got list"),
        ({"losses": torch.tensor([1e308, -1e308], dtype=torch.float64)}, ValueError, "largest less the smallest"),
        ({"alpha": 1.0}, ValueError, r"alpha must be in \[0, 1\), got 1.0"),
        ({"alpha": -0.1}, ValueError, r"alpha must be in \[0, 1\), got -0.1"),
        ({"alpha": math.nan}, ValueError, "alpha must be in"),
        ({"alpha": "much"}, TypeError, "alpha must be a number, got str"),
        ({"alpha": torch.tensor(1.5)}, ValueError, r"alpha must be in \[0, 1\), got 1.5"),
        ({"alpha": torch.tensor([0.1])}, ValueError, r"alpha must be a number or a 0-d .* got torch.float32 \[1\]"),
        ({"r": -1e-9}, ValueError, "r must be a finite number >= 0, got -1e-09"),
        ({"r": math.inf}, ValueError, "r must be a finite number >= 0, got inf"),
        ({"r": torch.tensor(1)}, ValueError, "r must be a number or a 0-d floating-point tensor, got torch.int64"),
        ({"order": "dh"}, ValueError, "order must be 'hd' or 'hr', got 'dh'"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    with pytest.raises(error, match=message):
        fastat.holistic_weights(**({"losses": torch.rand(4), "alpha": 0.1, "r": 0.1} | change))


def test_errors_of_cross_entropy():
    with pytest.raises(ValueError, match=r"logits must be \[B, C\] with C >= 2, got \[4\]"):
        fastat.holistic_cross_entropy(torch.zeros(4), torch.zeros(4).long(), 0.1, 0.1)
    with pytest.raises(ValueError, match=r"y must hold classes in \[0, 3\), got 3"):
        fastat.holistic_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]), 0.1, 0.1)


def test_certificate():
    assert fastat.certificate(100, 0.1) == pytest.approx(1 - math.exp(-10))
    assert fastat.certificate(10, 1e-18) == pytest.approx(1e-17)
    assert fastat.certificate(5, 0) == 0
    for n, r, name in ((0, 0.1, "n"), (2.5, 0.1, "n"), (10, -1, "r"), (10, math.nan, "r")):
        with pytest.raises(ValueError, match=f"{name} must be"):
            fastat.certificate(n, r)


# ---- the op


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(order, dtype):
    losses = batch(9, dtype=dtype).requires_grad_()
    budgets = torch.tensor([0.1, 0.2], dtype=torch.float64).unbind()
    for extra in ((None, None), budgets):
        torch.library.opcheck(torch.ops.fastat.holistic.default, (losses, 0.1, 0.2, *extra, order))
    rows, weights = torch.rand(5, 3).to(dtype), torch.rand(5).to(dtype)
    torch.library.opcheck(torch.ops.fastat.scale_rows.default, (rows, weights, torch.tensor(2.0, dtype=dtype)))


def test_compiles_in_one_graph():
    logits, y = torch.randn(16, 5, requires_grad=True), torch.randint(5, (16,))

    def loss(z, alpha):
        return fastat.holistic_cross_entropy(z, y, alpha, 0.2, "hr") + fastat.holistic_loss(z[:, 0].abs(), alpha, 0.1)

    for alpha in (0.1, torch.tensor(0.1)):
        (grad,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(logits, alpha), logits)
        (expected,) = torch.autograd.grad(loss(logits, alpha), logits)
        torch.testing.assert_close(grad, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_scale_rows(dtype):
    rows, weights = torch.randn(33, 17).to(dtype), torch.rand(33)
    weights = weights.double() if dtype == torch.float64 else weights
    scale = torch.tensor(-1.7, dtype=weights.dtype)
    expected = (rows.to(weights.dtype) * (weights * scale)[:, None]).to(dtype)
    assert torch.equal(ops.scale_rows(rows, weights, scale), expected)
    assert ops.scale_rows(rows[:0], weights[:0], scale).shape == (0, 17)
