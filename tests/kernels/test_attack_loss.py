"""attack_loss against its float64 twin, high-precision answers and autograd."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import logits_case, op_arguments

from fastat.kernels import ops, reference


def in_double(extra):
    return {k: v.double() if v.is_floating_point() else v for k, v in extra.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("kind", "classes"),
    [
        (kind, classes)
        for kind in ops.LOSS_KINDS
        for classes in (1, 2, 3, 4, 10, 15, 16, 17, 100, 1000, 5003)
        if classes >= ops.LEAST_CLASSES[kind]
    ],
)
def test_agrees_with_the_exact_twin(kind, classes, dtype):
    logits, y, extra = logits_case(kind, 9, classes, dtype)
    loss, grad = ops.attack_loss(logits, y, kind, **extra)
    exact_loss, exact_grad = reference.attack_loss(logits.double(), y, kind, **in_double(extra))
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32) and grad.dtype == dtype
    arithmetic = 1e-13 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(loss.double(), exact_loss, rtol=arithmetic, atol=arithmetic)
    rounding = max(arithmetic, torch.finfo(dtype).eps)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=rounding, atol=rounding * exact_grad.abs().max().item())


@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 6), classes=st.integers(4, 40), seed=st.integers(0, 2**31), scale=st.floats(0.01, 30))
def test_agrees_over_shapes_and_scales(kind, rows, classes, seed, scale):
    logits, y, extra = logits_case(kind, rows, classes, torch.float32, seed, scale)
    loss, grad = ops.attack_loss(logits, y, kind, **extra)
    exact_loss, exact_grad = reference.attack_loss(logits.double(), y, kind, **in_double(extra))
    torch.testing.assert_close(loss.double(), exact_loss, rtol=3e-6, atol=3e-6)
    # Differences of numbers of order one have an absolute error: in kl's gradient ours, elsewhere the twin's.
    atol = 3e-7 if kind == "kl" else 1e-15
    torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-5, atol=atol + 3e-6 * exact_grad.abs().max().item())


def test_a_row_of_many_classes():
    logits, y, _ = logits_case("ce", 3, 100_000)
    loss, grad = ops.attack_loss(logits, y)
    exact_loss, exact_grad = reference.attack_loss(logits.double(), y)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(grad.double(), exact_grad, rtol=2e-6, atol=1e-12)


def test_cross_entropy_of_a_sure_model_keeps_its_digits():
    # Against mpmath: log(1 + e^-30 + 2 e^-40) and its gradient, where 1 - p_y in float32 is zero.
    logits = torch.tensor([[30.0, 0.0, -10.0, -10.0], [-200.0, 200.0, 0.0, 0.0], [1e4, -1e4, 0.0, 0.0]])
    y = torch.tensor([0, 0, 1])
    loss, grad = ops.attack_loss(logits, y)
    with mpmath.workdps(60):
        for i in range(3):
            z = [mpmath.mpf(v) for v in logits[i].tolist()]
            total = mpmath.fsum(mpmath.exp(v) for v in z)
            exact = mpmath.log(total) - z[y[i]]
            assert abs(loss[i].item() - exact) <= 3e-7 * exact
            for j in range(4):
                p = mpmath.exp(z[j]) / total
                exact = p if j != y[i] else -mpmath.fsum(mpmath.exp(v) for k, v in enumerate(z) if k != j) / total
                assert abs(grad[i, j].item() - exact) <= 4e-7 * abs(exact) + 1e-45


@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_nan_stays_in_its_row(kind):
    logits, y, extra = logits_case(kind, 5, 12)
    clean = ops.attack_loss(logits, y, kind, **extra)
    logits[2, 7] = math.nan
    loss, grad = ops.attack_loss(logits, y, kind, **extra)
    others = [0, 1, 3, 4]
    assert loss[2].isnan() and grad[2].isnan().any()
    assert torch.equal(loss[others], clean[0][others]) and torch.equal(grad[others], clean[1][others])


def test_infinite_logits():
    logits = torch.tensor([[-math.inf, 1.0, 2.0, 0.0], [3.0, -math.inf, 0.0, 1.0]])
    y = torch.tensor([0, 0])
    loss, grad = ops.attack_loss(logits, y)
    assert loss[0] == math.inf and grad.isfinite().all() and grad[1, 1] == 0
    torch.testing.assert_close(loss[1], F.cross_entropy(logits[1:], y[1:]))


@pytest.mark.parametrize("kind", ["margin", "dlr", "dlr_targeted"])
def test_ties(kind):
    logits = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0], [2.0, 5.0, 5.0, 5.0, 5.0]])
    y = torch.tensor([1, 0])
    extra = {"targets": torch.tensor([3, 4])} if kind == "dlr_targeted" else {}
    loss, grad = ops.attack_loss(logits, y, kind, **extra)
    exact_loss, _ = reference.attack_loss(logits.double(), y, kind, **extra)
    torch.testing.assert_close(loss.double(), exact_loss, rtol=1e-6, atol=0)
    assert torch.allclose(grad.sum(1), torch.zeros(2), atol=1e-3 * grad.abs().max().item())


@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_gradcheck(kind):
    logits, y, extra = logits_case(kind, 4, 6, torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda z: ops.attack_loss(z, y, kind, **extra)[0], logits, atol=1e-6)


@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_the_op_itself_refuses_other_tensors_than_its_kind_takes(kind):
    logits, y, extra = logits_case(kind, 4, 6)
    op, arguments = torch.ops.fastat.attack_loss, op_arguments(kind, logits, y, extra)
    op(*arguments)
    labels, other = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 6)
    for place, value in ((1, labels), (3, labels), (4, other)):
        wrong = list(arguments)
        wrong[place] = None if wrong[place] is not None else value
        with pytest.raises(RuntimeError, match="takes other tensors than those given"):
            op(*wrong)
    with pytest.raises(RuntimeError, match="attack_loss of kind 7 takes"):
        op(*arguments[:2], 7, *arguments[3:])


def test_backward_scales_rows():
    logits, y, _ = logits_case("ce", 5, 7)
    logits.requires_grad_()
    weight = torch.rand(5)
    loss, grad = ops.attack_loss(logits, y)
    assert loss.requires_grad and not grad.requires_grad
    (weight * loss).sum().backward()
    torch.testing.assert_close(logits.grad, weight[:, None] * grad)


def test_second_derivatives_are_refused():
    logits, y, _ = logits_case("ce", 5, 7)
    logits.requires_grad_()
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(ops.attack_loss(logits, y)[0].sum(), logits, create_graph=True)


def test_strides_labels_and_empty():
    logits, y, _ = logits_case("ce", 6, 8)
    expected = ops.attack_loss(logits, y)
    for other in (logits.T.contiguous().T, torch.cat([logits, logits], 1)[:, :8]):
        loss, grad = ops.attack_loss(other, y.to(torch.int32))
        assert torch.equal(loss, expected[0]) and torch.equal(grad, expected[1])
    loss, grad = ops.attack_loss(logits[:0], y[:0])
    assert loss.shape == (0,) and grad.shape == (0, 8)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": torch.tensor([0, 8])}, ValueError, r"y must hold classes in \[0, 8\), got 8"),
        ({"y": torch.tensor([-1, 0])}, ValueError, r"y must hold classes in \[0, 8\), got -1"),
        ({"y": torch.tensor([0.0, 1.0])}, TypeError, "y must be an integer tensor, got torch.float32"),
        ({"y": torch.tensor([0])}, ValueError, r"y must have shape \[2\], got \[1\]"),
        ({"y": None}, ValueError, "kind 'ce' needs labels y"),
        ({"kind": "hinge"}, ValueError, "kind must be one of ce, margin"),
        ({"logits": torch.zeros(2)}, ValueError, r"needs logits \[B, C\]"),
        ({"logits": torch.zeros(2, 8, dtype=torch.int64)}, TypeError, "logits must be float32"),
        ({"kind": "dlr", "logits": torch.zeros(2, 2)}, ValueError, "with C >= 3"),
        ({"kind": "dlr_targeted"}, ValueError, "targets goes with kind 'dlr_targeted'"),
        ({"kind": "dlr_targeted", "logits": torch.zeros(2, 3), "targets": torch.zeros(2).long()}, ValueError, "C >= 4"),
        ({"targets": torch.tensor([0, 1])}, ValueError, "targets goes with kind 'dlr_targeted', and only with it"),
        ({"kind": "bce"}, ValueError, r"y must be like the logits, \[2, 8\] on cpu, for 'bce', got \[2\]"),
        ({"kind": "bce", "y": torch.full((2, 8), 1.5)}, ValueError, r"y must be in \[0, 1\] for 'bce', got values in"),
        ({"kind": "kl"}, ValueError, "reference goes with kind 'kl'"),
        ({"kind": "kl", "reference": torch.zeros(2, 7)}, ValueError, r"reference must have shape \[2, 8\]"),
    ],
)
def test_errors_name_the_argument(change, error, message):
    with pytest.raises(error, match=message):
        ops.attack_loss(**({"logits": torch.zeros(2, 8), "y": torch.tensor([0, 1])} | change))


@pytest.mark.parametrize("kind", ops.LOSS_KINDS)
def test_opcheck_and_compile(kind):
    logits, y, extra = logits_case(kind, 4, 6)
    torch.library.opcheck(torch.ops.fastat.attack_loss.default, op_arguments(kind, logits.requires_grad_(), y, extra))
    compiled = torch.compile(
        lambda z: ops.attack_loss(z, y, kind, **extra)[0].sum(), fullgraph=True, backend="aot_eager"
    )
    (ours,) = torch.autograd.grad(compiled(logits), logits)
    assert torch.equal(ours, ops.attack_loss(logits.detach(), y, kind, **extra)[1])
