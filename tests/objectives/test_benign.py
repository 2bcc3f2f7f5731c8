"""BAT's weights and losses against their twins, by hand, and over the edges."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import fastat
from fastat.kernels import reference
from fastat.objectives import benign

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
POSITIVES = ["outside", "inside"]


def case(rows, width, classes, dtype=torch.float32, seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(rows, classes, generator=g, dtype=torch.float64)).to(dtype)
    features = torch.randn(rows, width, generator=g, dtype=torch.float64).to(dtype)
    return logits, features, torch.randint(classes, (rows,), generator=g)


# ---- weights


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 3, 10, 16, 17, 100, 1000, 5003])
def test_weights_agree_with_the_twin(classes, dtype):
    logits, _, y = case(40, 1, classes, dtype)
    y[:20] = logits[:20].argmax(1)  # half of them right
    weights = fastat.benign_weights(logits, y, 0.7)
    exact = reference.benign_weights(logits.double(), y, 0.7)
    assert weights.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(weights.double(), exact, rtol=1e-6, atol=0)
    assert (weights[:20] == 1).all() and (weights[20:] < 1).any()


def test_weights_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    wrong = math.exp(2) / (math.exp(2) + 2)  # probability of the class it falls for
    weights = fastat.benign_weights(logits, torch.tensor([0, 1]), gamma=1.5)
    torch.testing.assert_close(weights, torch.tensor([1.0, math.exp(-1.5 * wrong)]))
    assert (fastat.benign_weights(logits, torch.tensor([0, 1]), gamma=0) == 1).all()


def test_of_equal_logits_the_first_is_the_prediction():
    logits = torch.tensor([[1.0, 5.0, 5.0, 5.0], [1.0, 5.0, 5.0, 5.0], [5.0, 5.0, 0.0, 0.0]])
    y = torch.tensor([1, 2, 0])
    torch.testing.assert_close(fastat.benign_weights(logits, y), reference.benign_weights(logits, y))
    assert fastat.benign_weights(logits, y)[0] == 1 and fastat.benign_weights(logits, y)[1] < 1


def test_nan_stays_in_its_row():
    logits, _, y = case(5, 1, 12)
    clean = fastat.benign_weights(logits, y)
    logits[2, 7] = math.nan
    weights = fastat.benign_weights(logits, y)
    assert weights[2].isnan() and torch.equal(weights[[0, 1, 3, 4]], clean[[0, 1, 3, 4]])


# ---- the discrimination loss


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize(
    ("rows", "width", "classes"), [(2, 3, 2), (9, 2, 3), (33, 8, 3), (128, 64, 10), (200, 16, 100)]
)
def test_discrimination_agrees_with_the_twin(rows, width, classes, positives, dtype):
    _, features, y = case(rows, width, classes, dtype)
    for tau in (0.02, 0.1, 1.0):
        ours, exact = features.clone().requires_grad_(), features.double().requires_grad_()
        loss = fastat.discrimination_loss(ours, y, tau, positives)
        expected = reference.discrimination_loss(exact, y, tau, positives)
        (grad,), (expected_grad,) = torch.autograd.grad(loss, ours), torch.autograd.grad(expected, exact)
        arithmetic = 1e-11 if dtype == torch.float64 else 2e-5 / min(1, 5 * tau)
        torch.testing.assert_close(loss.double(), expected, rtol=arithmetic, atol=arithmetic)
        rounding = max(arithmetic, 2 * torch.finfo(dtype).eps)
        torch.testing.assert_close(
            grad.double(), expected_grad, rtol=rounding, atol=rounding * max(1e-9, expected_grad.abs().max().item())
        )


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 20), width=st.integers(1, 5), classes=st.integers(2, 6), tau=st.floats(0.05, 5),
    seed=st.integers(0, 2**31), positives=st.sampled_from(POSITIVES),
)  # fmt: skip
def test_discrimination_over_shapes(rows, width, classes, tau, seed, positives):
    _, features, y = case(rows, width, classes, torch.float64, seed)
    ours, exact = features.clone().requires_grad_(), features.clone().requires_grad_()
    loss, expected = (
        fastat.discrimination_loss(ours, y, tau, positives),
        reference.discrimination_loss(exact, y, tau, positives),
    )
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.grad, exact.grad, rtol=1e-8, atol=1e-8)


def test_discrimination_by_hand():
    # Two orthogonal pairs: each sample has its one positive at similarity 1/tau among three others.
    features = torch.tensor([[2.0, 0.0], [0.5, 0.0], [0.0, 1.0], [0.0, 7.0]])
    y = torch.tensor([4, 4, 9, 9])
    expected = math.log(math.exp(1 / 0.5) + 2) - 1 / 0.5
    for positives in POSITIVES:
        assert fastat.discrimination_loss(features, y, 0.5, positives).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("positives", POSITIVES)
def test_samples_without_a_positive_do_not_count(positives):
    features = torch.randn(5, 3, requires_grad=True)
    lonely = fastat.discrimination_loss(features, torch.arange(5), 0.1, positives)
    lonely.backward()
    assert lonely == 0 and (features.grad == 0).all()
    y = torch.tensor([0, 0, 1, 2, 3])
    torch.testing.assert_close(
        fastat.discrimination_loss(features, y, 0.1, positives),
        reference.discrimination_loss(features, y, 0.1, positives),
    )
    assert fastat.discrimination_loss(features[:1], y[:1]) == 0 and fastat.discrimination_loss(features[:0], y[:0]) == 0


@pytest.mark.parametrize("positives", POSITIVES)
def test_features_without_a_direction_or_a_number(positives):
    y = torch.tensor([0, 0, 1, 1, 1])
    features = torch.randn(5, 3)
    features[2] = 0  # similarity 0 with all, and no gradient
    ours, exact = features.clone().requires_grad_(), features.double().requires_grad_()
    loss, expected = (
        fastat.discrimination_loss(ours, y, 0.2, positives),
        reference.discrimination_loss(exact, y, 0.2, positives),
    )
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)
    assert (ours.grad[2] == 0).all()
    scaled = fastat.discrimination_loss(1e-15 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), y)
    assert scaled == pytest.approx(
        fastat.discrimination_loss(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), y).item(), rel=1e-5
    )
    for bad in (math.nan, math.inf):
        features[0, 1] = bad
        assert fastat.discrimination_loss(features, y, 0.2, positives).isnan()
        assert fastat.discrimination_loss(torch.full((6, 4), bad), torch.arange(6) // 2, 0.2, positives).isnan()


def test_large_gamma_leaves_a_mean():
    logits, y = torch.tensor([[5.0, 0.0, 0.0]] * 2), torch.tensor([1, 1])
    for gamma in (50, 200, 1e30):
        loss = fastat.benign_loss(logits, torch.randn(2, 3), y, gamma=gamma, beta=0)
        torch.testing.assert_close(loss, F.cross_entropy(logits, y))
        assert (fastat.benign_weights(logits, y, gamma) > 0).all()


@pytest.mark.parametrize("positives", POSITIVES)
def test_tiles_do_not_show(monkeypatch, positives):
    _, features, y = case(70, 6, 4, torch.float64)
    whole, tiled = features.clone().requires_grad_(), features.clone().requires_grad_()
    expected = fastat.discrimination_loss(whole, y, 0.1, positives)
    expected.backward()
    monkeypatch.setattr(benign, "_TILE", 70 * 9)  # nine rows at a time: the last tile has seven
    loss = fastat.discrimination_loss(tiled, y, 0.1, positives)
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-13, atol=0)
    torch.testing.assert_close(tiled.grad, whole.grad, rtol=1e-11, atol=1e-15)


def test_memory_of_a_large_batch():
    # B = 16,384 at D = 512: the similarities alone would be 1 GiB, twice that with a gradient.
    import subprocess
    import sys

    program = """
import resource, torch, fastat
features, y = torch.randn(16384, 512, requires_grad=True), torch.randint(10, (16384,))
fastat.discrimination_loss(features[:64], y[:64]).backward()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
fastat.discrimination_loss(features, y).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 1


def test_under_autocast_it_stays_in_float32():
    _, features, y = case(32, 16, 4)
    expected = fastat.discrimination_loss(features, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = features.clone().requires_grad_()
        loss = fastat.discrimination_loss(inside, y)
        loss.backward()
    assert torch.equal(loss, expected)
    outside = features.clone().requires_grad_()
    fastat.discrimination_loss(outside, y).backward()
    assert torch.equal(inside.grad, outside.grad)


# ---- the whole loss


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_benign_loss_agrees_with_the_twin(positives, dtype):
    logits, features, y = case(50, 12, 10, dtype)
    ours = [t.clone().requires_grad_() for t in (logits, features)]
    exact = [t.double().clone().requires_grad_() for t in (logits, features)]
    loss = fastat.benign_loss(*ours, y, 0.8, 0.4, 0.2, positives)
    expected = reference.benign_loss(*exact, y, 0.8, 0.4, 0.2, positives)
    loss.backward()
    expected.backward()
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(loss.double(), expected, rtol=tolerance, atol=0)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=tolerance, atol=tolerance * b.grad.abs().max().item())


def test_without_weights_and_discrimination_it_is_cross_entropy():
    logits, features, y = case(50, 12, 10)
    loss = fastat.benign_loss(logits, features, y, gamma=0, beta=0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, y))


def test_half_logits_with_single_features():
    logits, features, y = case(20, 6, 5, torch.bfloat16)
    loss = fastat.benign_loss(logits.requires_grad_(), features.float(), y)
    loss.backward()
    assert loss.dtype == torch.float32 and logits.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("positives", POSITIVES)
def test_gradcheck(positives):
    logits, features, y = case(7, 4, 3, torch.float64)

    def loss(z, h):  # gamma 0: other weights move with the logits, and are constants for autograd alone
        return fastat.benign_loss(z, h, y, 0.0, 0.5, 0.3, positives)

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(), features.requires_grad_()))


def test_one_derivative_only():
    logits, features, y = case(7, 4, 3)
    for loss, at in (
        (fastat.benign_loss(logits.requires_grad_(), features, y, beta=0), logits),
        (fastat.discrimination_loss(features.requires_grad_(), y), features),
    ):
        with pytest.raises(RuntimeError, match="differentiable once"):
            torch.autograd.grad(loss, at, create_graph=True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda z, h, y: fastat.benign_weights(z, y, -1), ValueError, "gamma must be a finite number >= 0, got -1"),
        (lambda z, h, y: fastat.benign_weights(z, y, "1"), TypeError, "gamma must be a number, got str"),
        (lambda z, h, y: fastat.benign_weights(z, y + 3), ValueError, r"y must hold classes in \[0, 3\)"),
        (lambda z, h, y: fastat.benign_weights(z[0], y), ValueError, r"logits must be \[B, C\] with C >= 2"),
        (lambda z, h, y: fastat.benign_weights(z.long(), y), TypeError, "logits must be float32"),
        (lambda z, h, y: fastat.discrimination_loss(h[0], y), ValueError, r"features must be \[B, D\]"),
        (lambda z, h, y: fastat.discrimination_loss(h, y[:2]), ValueError, r"y must have shape \[4\], got \[2\]"),
        (lambda z, h, y: fastat.discrimination_loss(h, y.float()), TypeError, "y must be an integer tensor"),
        (
            lambda z, h, y: fastat.discrimination_loss(h, y * 2**32),
            ValueError,
            "y must fit in 32 bits, got labels from 0",
        ),
        (lambda z, h, y: fastat.discrimination_loss(h, y, 0), ValueError, "tau must be a finite number above 0, got 0"),
        (lambda z, h, y: fastat.discrimination_loss(h, y, 0.1, "both"), ValueError, "positives must be .* got 'both'"),
        (lambda z, h, y: fastat.benign_loss(z, h, y, beta=math.inf), ValueError, "beta must be a finite number >= 0"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.randn(4, 3), torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))


# ---- the ops


def products(dtype, first=1, rows=4):
    _, features, y = case(6, 3, 2, dtype)
    h = F.normalize(features, dim=1)
    return h[first : first + rows] @ h.T, y.to(torch.int64 if dtype == torch.float64 else torch.int32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype):
    logits, _, y = case(5, 1, 4, dtype)
    torch.library.opcheck(torch.ops.fastat.benign_cross_entropy.default, (logits, y, 1.0))
    tile, labels = products(dtype)
    sums, scale = torch.rand(4, 6, dtype=dtype), torch.tensor(0.5, dtype=dtype)
    torch.library.opcheck(torch.ops.fastat.contrast_rows_.default, (sums, tile, labels, 2, 1, 10.0, False))
    torch.library.opcheck(torch.ops.fastat.contrast_gradient_.default, (tile, labels, sums, scale, 1, 10.0, True))


def test_compiles_in_one_graph():
    logits, features, y = case(16, 8, 4)

    def loss(z, h):
        return fastat.benign_loss(z, h, y) + fastat.benign_weights(z, y).sum()

    ours = [t.clone().requires_grad_() for t in (logits, features)]
    plain = [t.clone().requires_grad_() for t in (logits, features)]
    torch.compile(loss, fullgraph=True, backend="aot_eager")(*ours).backward()
    loss(*plain).backward()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
