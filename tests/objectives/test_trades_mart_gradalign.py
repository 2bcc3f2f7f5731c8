"""TRADES, MART and GradAlign: by hand, against the textbook code, and their gradients."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastat.objectives.gradalign import gradient_misalignment
from fastat.objectives.mart import mart_loss
from fastat.objectives.trades import trades_loss


def case(rows=32, classes=7, dtype=torch.float64):
    clean = (2 * torch.randn(rows, classes, dtype=torch.float64)).to(dtype)
    adversarial = (clean.double() + torch.randn(rows, classes, dtype=torch.float64)).to(dtype)
    return clean, adversarial, torch.randint(classes, (rows,))


def textbook_trades(clean, adversarial, y, beta):
    p, q = clean.softmax(1), adversarial.softmax(1)
    return F.cross_entropy(clean, y) + beta * (p * (p / q).log()).sum(1).mean()


def textbook_mart(clean, adversarial, y, lam):
    p, q = clean.softmax(1), adversarial.softmax(1)
    rows = torch.arange(len(y))
    others = q.clone()
    others[rows, y] = 0
    boosted = -q[rows, y].log() - (1 - others.amax(1)).log()
    return (boosted + lam * (p * (p / q).log()).sum(1) * (1 - p[rows, y])).mean()


@pytest.mark.parametrize(("loss", "textbook"), [(trades_loss, textbook_trades), (mart_loss, textbook_mart)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_and_gradients_are_the_textbook_s(loss, textbook, dtype):
    clean, adversarial, y = case(dtype=dtype)
    ours = [t.clone().requires_grad_() for t in (clean, adversarial)]
    exact = [t.double().clone().requires_grad_() for t in (clean, adversarial)]
    value, expected = loss(*ours, y, 3.5), textbook(*exact, y, 3.5)
    value.backward()
    expected.backward()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(value.double(), expected, rtol=min(tolerance, 1e-5), atol=0)
    for a, b in zip(ours, exact, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=tolerance, atol=tolerance * b.grad.abs().max().item())


@pytest.mark.parametrize("loss", [trades_loss, mart_loss])
def test_gradcheck(loss):
    clean, adversarial, y = case(4, 5)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, y), (clean.requires_grad_(), adversarial.requires_grad_()))


def test_by_hand():
    # One sample: clean (3/4, 1/4), adversarial (1/2, 1/2), label 0.
    clean, adversarial, y = torch.tensor([[math.log(3), 0.0]]), torch.zeros(1, 2), torch.tensor([0])
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert trades_loss(clean, adversarial, y, 6).item() == pytest.approx(-math.log(0.75) + 6 * divergence, rel=1e-6)
    assert mart_loss(clean, adversarial, y, 5).item() == pytest.approx(
        -2 * math.log(0.5) + 5 * divergence * 0.25, rel=1e-6
    )


def test_mart_keeps_its_digits_when_an_attack_is_sure():
    # p_adv of the other class is 1 - 4e-18: formed as 1 - p, its logarithm would be minus infinity.
    clean, adversarial, y = torch.zeros(1, 2), torch.tensor([[0.0, 40.0]]), torch.tensor([0])
    assert mart_loss(clean, adversarial, y, 0).item() == pytest.approx(80, rel=1e-6)


@pytest.mark.parametrize("loss", [trades_loss, mart_loss])
def test_errors(loss):
    clean, adversarial, y = case(4, 3, torch.float32)
    for change, message in (
        ({"logits_adv": adversarial[:2]}, r"logits_adv must have shape \[4, 3\], got \[2, 3\]"),
        ({"y": y + 3}, "y must hold classes"),
        ({"logits": clean[0], "logits_adv": clean[0]}, r"logits must be \[B, C\] with C >= 2"),
        ({"beta" if loss is trades_loss else "lam": -1}, "must be a finite number >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(**({"logits": clean, "logits_adv": adversarial, "y": y} | change))


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 4)).double()


def test_misalignment_by_hand():
    model, x, y = network(), torch.rand(6, 1, 3, 4, dtype=torch.float64), torch.randint(4, (6,))
    value = gradient_misalignment(model, x, y, 0.2, seed=3)
    import fastat

    noisy = fastat.random_start(x, 0.2, "linf", 3)
    cosines = []
    for i in range(6):
        gradients = []
        for point in (x[i : i + 1], noisy[i : i + 1]):
            leaf = point.clone().requires_grad_()
            gradients.append(torch.autograd.grad(F.cross_entropy(model(leaf), y[i : i + 1]), leaf)[0].flatten())
        cosines.append(F.cosine_similarity(*gradients, dim=0))
    torch.testing.assert_close(value.detach(), 1 - torch.stack(cosines).mean())
    # the derivative with respect to the weights, numerically, with the gradient at x held constant
    parameter = model[1].weight
    (gradient,) = torch.autograd.grad(value, parameter)
    step = 1e-6 * torch.randn_like(parameter)

    def at(shift):
        with torch.no_grad():
            parameter.add_(shift)
        leaf = noisy.clone().requires_grad_()
        moved = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
        with torch.no_grad():
            parameter.sub_(shift)
        return (1 - F.cosine_similarity(fixed.flatten(1), moved.flatten(1), dim=1)).mean()

    leaf = x.clone().requires_grad_()
    fixed = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
    assert ((at(step) - at(-step)) / 2).item() == pytest.approx((gradient * step).sum().item(), rel=1e-5)


def test_a_linear_network_of_two_classes_is_aligned():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.rand(5, 1, 3, 4, dtype=torch.float64)
    assert gradient_misalignment(model, x, torch.randint(2, (5,)), 0.3).item() == pytest.approx(0, abs=1e-12)
    assert not x.requires_grad
