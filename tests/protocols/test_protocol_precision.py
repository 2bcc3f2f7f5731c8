"""Protocols and attacks in mixed precision."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from protocol_cases import batch, network
from torch import nn

import fastat
from fastat.kernels import ops
from fastat.protocols import perturbed_weights


def textbook(model, x, y, start, autocast):
    """PGD-2 and the cross-entropy there, as the field writes it."""
    x_adv = start
    for _ in range(2):
        x_adv = x_adv.detach().requires_grad_()
        with autocast():
            loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x_adv)[0]
        x_adv = (x + (x_adv + 0.125 * gradient.sign() - x).clamp(-0.1, 0.1)).clamp(0, 1)
    with autocast():
        return F.cross_entropy(model(x_adv.detach()), y), x_adv.detach()


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=str)
def test_the_plain_loop_in_any_precision(dtype):
    def autocast():
        return nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)

    x, y, _ = batch()
    x = x.float() if dtype else x
    models = [network().float() if dtype else network() for _ in range(2)]
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=1024.0)
    start = ops.random_start(x, 0.1, "linf", 5)
    expected, x_adv = textbook(models[0], x, y, start, autocast)
    protocol = fastat.protocol("pgd-at", eps=0.1, steps=2)
    with autocast():
        found = protocol.outcome(models[1], x, y, seed=5)
    differs = (found.x_adv - x_adv).abs() > 1e-6  # where a half-precision gradient is rounded to another sign, or to 0
    assert float(differs.double().mean()) <= (0.0 if dtype is None else 0.1)
    if dtype is None:
        torch.testing.assert_close(found.loss, expected, rtol=0, atol=1e-12)
    optimizer = torch.optim.SGD(models[1].parameters(), lr=0.1)
    before = [p.detach().clone() for p in models[1].parameters()]
    scaler.scale(found.loss).backward()
    scaler.step(optimizer)
    assert all(not torch.equal(old, p.detach()) for old, p in zip(before, models[1].parameters(), strict=True))


def vanishing():
    """A network whose gradient to the input is some 1e-8 for a sample: below float16's smallest number."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 3))
    with torch.no_grad():
        model[1].weight *= 1e-3
        model[3].weight *= 1e-4
    return model


class Inside(nn.Module):
    """Runs in float16 by itself and returns float32, as Accelerate has it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.float16):
            return self.inner(x).float()


def test_gradients_in_float16_do_not_vanish():
    model, (x, y, _) = vanishing(), batch()
    x = x.float()
    exact = fastat.fgsm(model, x, y, 0.1)
    with torch.autocast("cpu", dtype=torch.float16):
        leaf = x.clone().requires_grad_()
        plain = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)[0]
        found = fastat.fgsm(model, x, y, 0.1)
        own = fastat.fgsm(model, x, y, 0.1, loss=lambda z, y: F.cross_entropy(z, y, reduction="none"))
    assert float((plain == 0).float().mean()) > 0.9
    for x_adv in (found, own, fastat.fgsm(Inside(model), x, y, 0.1)):
        assert float((x_adv - exact).abs().le(1e-6).float().mean()) > 0.9


def test_gradients_in_float16_do_not_overflow():
    torch.manual_seed(0)
    model, (x, y, _) = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), batch()
    with torch.no_grad():
        model[1].weight *= 600  # the gradient is some hundred: scaled it would leave float16
    x = x.float()
    with torch.autocast("cpu", dtype=torch.float16):
        found = fastat.fgsm(model, x, y, 0.1, norm="l2")
    moved = (found - x).flatten(1).norm(dim=1)
    wrong = (model(x).argmax(1) != y).nonzero().flatten()  # whose gradient is large
    assert len(wrong) > 2 and float(moved[wrong].min()) > 0.01


def test_second_derivatives_and_awp_in_float16():
    model, (x, y, ids) = vanishing(), batch()
    x = x.float()
    aligned = fastat.gradient_misalignment(model, x, y, 0.1, seed=0, sample_ids=ids).item()
    with torch.autocast("cpu", dtype=torch.float16):
        half = fastat.gradient_misalignment(model, x, y, 0.1, seed=0, sample_ids=ids)
    assert half.item() == pytest.approx(aligned, abs=0.02) and half.requires_grad
    moves = []
    for dtype in (torch.float32, torch.float16):
        with torch.autocast("cpu", dtype=dtype, enabled=dtype == torch.float16):
            before = model[1].weight.detach().clone()
            with perturbed_weights(model, lambda: F.cross_entropy(model(x), y), 0.1):
                moves.append((model[1].weight.detach() - before).flatten())
    assert F.cosine_similarity(*moves, dim=0).item() > 0.95


@pytest.mark.parametrize("name", ["awp", "free"])
def test_a_pass_after_the_block_sees_the_weights_as_they_are(name):
    x, y, _ = batch()
    x, model = x.float(), network().float()
    options = {"steps": 1, "awp": 0.5} if name == "awp" else {}
    protocol = fastat.protocol("pgd-at" if name == "awp" else "free", eps=0.1, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with protocol.stepping(model, x, y, delta=torch.zeros_like(x) if name == "free" else None) as found:
            found.loss.backward()
            optimizer.step()
        after = model(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(after, model(x))
