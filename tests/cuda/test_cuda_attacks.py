"""pgd and fgsm on a GPU: the textbook loop, captured, under autocast, stopped early."""

import pytest
import torch
import torch.nn.functional as F
from cuda_cases import DEVICE, NORMS, captured, norms

import fastat
from fastat import fgsm, models, pgd
from fastat.kernels import ops

EPS = {"linf": 4 / 255, "l2": 0.3, "l1": 3.0}


def network(name="small_cnn"):
    torch.manual_seed(0)
    return models.build(name, 10, 3).to(DEVICE).eval()


def batch(model, size=32):
    x = torch.rand(size, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    with torch.no_grad():
        return x, model(x).argmax(1)


def cross_entropy(logits, y):
    return F.cross_entropy(logits, y, reduction="none")


def textbook(model, x, y, eps, step_size, steps, start):
    x_adv = start.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
        x_adv = x_adv.detach() + step_size * grad.sign()
        x_adv = (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


@pytest.mark.parametrize("name", ["small_cnn", "preact_resnet18"])
def test_linf_pgd_is_the_textbook_loop(name, exact_model):
    model = network(name)
    x, y = batch(model)
    start = fastat.random_start(x, 8 / 255, "linf", seed=3)
    expected = textbook(model, x, y, 8 / 255, 2 / 255, 10, start)
    assert torch.equal(pgd(model, x, y, 8 / 255, 2 / 255, 10, start=start, loss=cross_entropy), expected)
    # Our loss rounds in its own way: where the gradient to a pixel is as good as zero, its sign may differ.
    ours = pgd(model, x, y, 8 / 255, 2 / 255, 10, start=start)
    assert (ours != expected).float().mean() < 1e-2
    losses = [cross_entropy(model(a), y).mean().item() for a in (ours, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_fgsm_is_its_formula(exact_model):
    model = network()
    x, y = batch(model)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(cross_entropy(model(leaf), y).sum(), leaf)
    expected = (x + 8 / 255 * grad.sign()).clamp(0, 1)
    result = fgsm(model, x, y, 8 / 255, loss=cross_entropy)
    assert (result != (x + (x + 8 / 255 * grad.sign() - x).clamp(-8 / 255, 8 / 255)).clamp(0, 1)).sum() == 0
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_gpu_agrees_with_the_cpu(norm, exact_model):
    model = network()
    x, y = batch(model)
    on_gpu = pgd(model, x, y, EPS[norm], steps=5, norm=norm, seed=1)
    on_cpu = pgd(model.cpu(), x.cpu(), y.cpu(), EPS[norm], steps=5, norm=norm, seed=1)
    losses = [cross_entropy(model(a.cpu()), y.cpu()).mean().item() for a in (on_gpu, on_cpu)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert (norms(on_gpu - x, norm) <= EPS[norm] * (1 + 1e-5)).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_whole_attack_in_one_graph(norm, exact_model):
    model = network()
    x, y = (t.clone() for t in batch(model))
    seed = torch.tensor(1, device=DEVICE)

    def attack():
        return pgd(model, x, y, EPS[norm], steps=5, norm=norm, seed=seed, validate=False)

    graph, x_adv = captured(attack)
    for value in (2, 3):
        seed.fill_(value)
        x.copy_(torch.rand_like(x))
        graph.replay()
        torch.testing.assert_close(x_adv, attack(), rtol=0, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_under_autocast_and_channels_last(norm):
    model = network().to(memory_format=torch.channels_last)
    x, y = batch(model)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", torch.bfloat16), torch.no_grad():
        x_adv = pgd(model, x, y, EPS[norm], norm=norm, seed=1)
    assert x_adv.dtype == torch.float32 and x_adv.is_contiguous(memory_format=torch.channels_last)
    assert (norms(x_adv - x, norm) <= EPS[norm] * (1 + 1e-5)).all()
    assert cross_entropy(model(x_adv), y).mean() > cross_entropy(model(x), y).mean()


def test_early_stop_and_restarts(exact_model):
    model = network()
    x, y = batch(model, 64)
    eps = 1 / 255
    full = pgd(model, x, y, eps, seed=1)
    stopped = pgd(model, x, y, eps, seed=1, early_stop=True, restarts=2)
    wrong, broken = (model(a).argmax(1) != y for a in (full, stopped))
    assert broken[wrong].all() and (norms(stopped - x, "linf") <= eps * (1 + 1e-5)).all()


def test_bad_labels_and_images_are_named():
    model = network()
    x, y = batch(model)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 10\), got 10"):
        pgd(model, x, torch.full_like(y, 10))
    with pytest.raises(ValueError, match="outside the bounds"):
        pgd(model, 255 * x, y)
    result = pgd(
        model, x, torch.where(torch.arange(len(y), device=DEVICE) == 3, 10, y), EPS["linf"], seed=1, validate=False
    )
    start = ops.random_start(x, EPS["linf"], "linf", seed=1)
    assert torch.equal(result[3], start[3])  # its gradient is zero: it stays where it started
