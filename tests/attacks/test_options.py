"""Momentum, schedules, several gradients a step, input diversity and 8-bit results, each against a loop of its own."""

import math

import pytest
import torch
import torch.nn.functional as F
from steep import Steep
from torch import nn

import fastat

P = {"linf": math.inf, "l2": 2, "l1": 1}


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(4 * 36, 5)).to(dtype).eval()


def batch(dtype=torch.float64, n=8):
    g = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 3, 8, 8, generator=g, dtype=torch.float64) * 255).round() / 255
    return x.to(dtype), torch.randint(5, (n,), generator=g)


def ce(z, y):
    return F.cross_entropy(z, y, reduction="none")


def gradient(model, point, y):
    leaf = point.clone().requires_grad_()
    return torch.autograd.grad(ce(model(leaf), y).sum(), leaf)[0]


def moved(x_adv, x, direction, step, eps):
    return (x + (x_adv + step * direction.sign() - x).clamp(-eps, eps)).clamp(0, 1)


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("mu", [0.5, 1.0])
def test_momentum(mu, nesterov, early_stop):
    model, (x, y) = network(), batch()
    x_adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(5):
        grad = gradient(model, x_adv + 0.02 * mu * g if nesterov else x_adv, y)
        g = mu * g + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        x_adv = moved(x_adv, x, g, 0.02, 0.06)
    options = {"early_stop": True, "won": lambda z, y: y == 1} if early_stop else {}
    found = fastat.pgd(
        model, x, y, 0.06, 0.02, 5, loss=ce, random_start=False, momentum=mu, nesterov=nesterov, **options
    )
    rows = y != 1 if early_stop else torch.ones(len(y), dtype=torch.bool)
    assert torch.equal(found[rows], x_adv[rows]) and rows.sum() < len(y) + (not early_stop)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_momentum_in_other_norms(norm):
    model, (x, y) = network(), batch()
    x_adv, g = x.clone(), torch.zeros_like(x)
    for _ in range(4):
        grad = gradient(model, x_adv, y)
        g = 1.0 * g + grad / grad.abs().mean((1, 2, 3), keepdim=True)
        x_adv = getattr(fastat.reference, f"{norm}_step_")(x_adv, g, x, 0.3, 0.8)
    found = fastat.pgd(model, x, y, 0.8, 0.3, 4, norm, loss=ce, random_start=False, momentum=1.0)
    torch.testing.assert_close(found, x_adv, rtol=0, atol=1e-9)


def test_what_is_kept_with_nesterov_is_scored_where_it_is():
    model, (x, y) = network(), batch()
    options = {"loss": ce, "random_start": False, "momentum": 1.0, "nesterov": True}
    iterates = [fastat.pgd(model, x, y, 0.06, 0.05, k, **options) for k in range(5)]
    losses = torch.stack([ce(model(a), y) for a in iterates]).detach()
    kept = fastat.pgd(model, x, y, 0.06, 0.05, 4, keep="best", **options)
    torch.testing.assert_close(ce(model(kept), y), losses.amax(0))


@pytest.mark.parametrize("early_stop", [False, True])
def test_step_sizes_by_a_schedule(early_stop):
    model, (x, y) = network(), batch()
    sizes = [0.05, 0.03, 0.01, 0.005]
    x_adv = x.clone()
    for size in sizes:
        x_adv = moved(x_adv, x, gradient(model, x_adv, y), size, 0.06)
    options = {"early_stop": True, "won": lambda z, y: torch.zeros(len(y)).bool()} if early_stop else {}
    found = fastat.pgd(model, x, y, 0.06, sizes.__getitem__, 4, loss=ce, random_start=False, **options)
    assert torch.equal(found, x_adv)
    with pytest.raises(ValueError, match=r"step_size\(1\) must be a finite number >= 0, got -1"):
        fastat.pgd(model, x, y, 0.06, lambda step: -step, 4)


class Noisy(nn.Module):
    """Random by a generator of its own, so that a loop can draw the same."""

    def __init__(self):
        super().__init__()
        self.inner = network()
        self.draws = 0

    def forward(self, x):
        self.draws += 1
        g = torch.Generator().manual_seed(self.draws)
        return self.inner(x + 0.1 * torch.randn(x.shape, generator=g, dtype=x.dtype))


def test_gradients_are_averaged_over_samples():
    model, (x, y) = Noisy(), batch()
    x_adv = x.clone()
    for _ in range(3):
        x_adv = moved(x_adv, x, torch.stack([gradient(model, x_adv, y) for _ in range(4)]).mean(0), 0.02, 0.06)
    model.draws = 0
    found = fastat.pgd(model, x, y, 0.06, 0.02, 3, random_start=False, samples=4)
    assert torch.equal(found, x_adv) and model.draws == 12


def test_diverse_inputs_are_images_made_smaller_and_padded():
    seen, (x, y) = [], batch()
    inner = network()

    class Seeing(nn.Module):
        def forward(self, z):
            seen.append(z.detach())
            return inner(z)

    ones = torch.ones_like(x)
    fastat.pgd(Seeing(), ones, y, 0.0, steps=6, diversity=0.5, seed=3)
    changed = torch.stack([(z != ones).flatten(1).any(1) for z in seen])
    assert changed.shape == (6, 8) and 0.2 < changed.double().mean() < 0.8
    side = torch.stack(seen).mean(2).sum((2, 3)).sqrt()  # of a white image on black
    assert (side[changed] >= 0.9 * 8 - 0.05).all() and (side[changed] < 8).all()
    again = list(seen)
    seen.clear()
    fastat.pgd(Seeing(), ones[2:5], y[2:5], 0.0, steps=6, diversity=0.5, seed=3, sample_ids=torch.arange(2, 5))
    assert all(torch.equal(a[2:5], b) for a, b in zip(again, seen, strict=True))  # by sample, whatever the batch
    plain = fastat.pgd(inner, x, y, 0.05, steps=3, seed=0)
    assert torch.equal(fastat.pgd(inner, x, y, 0.05, steps=3, seed=0, diversity=0.0), plain)
    diverse = fastat.pgd(inner, x, y, 0.05, steps=3, seed=0, diversity=1.0)
    assert not torch.equal(diverse, plain) and ((diverse - x).abs() <= 0.05 + 1e-12).all()
    assert (ce(inner(diverse), y) > ce(inner(x), y)).all()
    best = fastat.pgd(inner, x, y, 0.05, steps=3, seed=0, diversity=1.0, keep="best")
    assert (ce(inner(best), y) >= ce(inner(diverse), y) - 1e-9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", P)
def test_results_of_8_bits(norm, dtype):
    model, (x, y) = network(dtype), batch(dtype)
    eps = {"linf": 8 / 255, "l2": 0.7, "l1": 7.3}[norm]
    for options in ({}, {"early_stop": True}, {"keep": "best"}, {"restarts": 2}):
        found = fastat.pgd(model, x, y, eps, norm=norm, quantize=255, seed=0, **options)
        bytes_ = (found.double() * 255).round()
        rounding = torch.finfo(dtype).eps
        assert (found.double() - bytes_ / 255).abs().max() <= rounding
        assert found.min() >= 0 and found.max() <= 1
        exact = (bytes_ - (x.double() * 255).round()) / 255
        size = exact.flatten(1).norm(P[norm], dim=1)
        assert (size <= eps + 1e-5).all()
        if not options:
            assert (size >= 0.9 * eps).all()  # rounding gives up little of the ball
        saved = (found * 255).round().to(torch.uint8).to(dtype) / 255
        assert torch.equal(model(saved).argmax(1), model(found).argmax(1))
    one = fastat.fgsm(model, x, y, eps, norm=norm, quantize=255)
    assert (one.double() - (one.double() * 255).round() / 255).abs().max() <= torch.finfo(dtype).eps


def test_what_is_won_is_won_on_the_grid():
    """A coarse grid, so that rounding undoes some of what is won off it."""
    model, (x, y) = network(), batch(n=40)
    x = (x * 10).round() / 10
    y = model(x).argmax(1)
    found = fastat.pgd(model, x, y, 0.1, 0.03, 10, quantize=10, early_stop=True, seed=0)
    assert ((found * 10).round() / 10 - found).abs().max() < 1e-12 and (found - x).abs().max() <= 0.1 + 1e-12
    off = fastat.pgd(model, x, y, 0.1, 0.03, 10, early_stop=True, seed=0)
    rounded = (off * 10).round() / 10
    won, naive = (model(found).argmax(1) != y).sum(), (model(rounded).argmax(1) != y).sum()
    assert won >= naive and won > 0


def test_the_grid_of_other_bounds():
    model, (x, y) = network(), batch()
    found = fastat.pgd(model, 2 * x - 1, y, 0.1, bounds=(-1.0, 1.0), quantize=255, seed=0)
    assert (((found + 1) * 127.5).round() / 127.5 - 1 - found).abs().max() < 1e-12
    for given, change, message in (
        (x, {"quantize": 0}, "quantize must be an integer >= 1"),
        (x, {"bounds": None}, "needs bounds of two numbers"),
        (
            (x + 0.3 / 255).clamp(max=1),
            {},
            r"needs inputs on that grid, got one 0.3 of a step off it.*Round them first",
        ),
        (x.half(), {}, "quantize needs float32 or float64 data"),
    ):
        with pytest.raises(ValueError, match=message):
            fastat.pgd(model, given, y, 0.1, **({"quantize": 255} | change))


def test_restarts_are_compared_on_the_grid():
    """One start leads to where the loss is high off the grid alone, another to where it is high on it."""

    class Bumps(nn.Module):
        def forward(self, z):
            z = z.flatten(1)[:, 0] * 255
            narrow = 4 * (1 - (z - 101.5).abs() / 0.3).clamp(min=0)
            wide = 2 * (1 - (z - 98).abs() / 1.2).clamp(min=0)
            return torch.stack([torch.ones_like(z), narrow + wide], 1)

    x, y = torch.full((200, 1), 100 / 255, dtype=torch.float64), torch.zeros(200, dtype=torch.int64)
    options = {"steps": 0, "restarts": 30, "seed": 0, "quantize": 255}
    for keep in ("last", "best"):
        for early_stop in (False, True):
            found = fastat.pgd(Bumps(), x, y, 2.4 / 255, keep=keep, early_stop=early_stop, **options)
            assert (Bumps()(found).argmax(1) == 1).float().mean() > 0.95


@pytest.mark.parametrize("clip", [True, False])
def test_n_fgsm_on_the_grid_leaves_the_ball_as_it_does_off_it(clip):
    model, (x, y) = network(), batch()
    found = fastat.fgsm(model, x, y, 8 / 255, 16 / 255, noise=2, clip=clip, quantize=255, seed=0)
    off = fastat.fgsm(model, x, y, 8 / 255, 16 / 255, noise=2, clip=clip, seed=0)
    assert (found - off).abs().max() <= 0.5 / 255 + 1e-9
    assert ((found - x).abs().max() > 20 / 255) == (not clip)


def test_momentum_keeps_infinite_and_huge_gradients():
    x, y = torch.full((2, 6), 0.5), torch.tensor([0, 1])
    linear = nn.Linear(6, 2)
    plain = fastat.pgd(linear, x, y, 0.1, steps=3, random_start=False)
    for scale in (torch.inf, 1e38, 1e-38):
        scales = torch.full((2, 6), scale)
        moved = fastat.pgd(
            lambda z, s=scales: linear(Steep.apply(z, s)), x, y, 0.1, steps=3, random_start=False, momentum=1.0
        )
        torch.testing.assert_close(moved, plain)
    scales = torch.ones(2, 6).index_fill_(1, torch.tensor([3]), torch.inf)
    moved = fastat.pgd(lambda z: linear(Steep.apply(z, scales)), x, y, 0.1, steps=1, random_start=False, momentum=1.0)
    assert ((moved - x)[:, 3].abs() > 0).all() and (moved - x)[:, [0, 1, 2, 4, 5]].count_nonzero() == 0


def test_a_pass_without_a_finite_gradient_does_not_undo_the_others():
    class Every(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = nn.Linear(6, 2), 0

        def forward(self, z):
            self.calls += 1
            return self.inner(z) if self.calls % 2 else self.inner((z * 0).sqrt() + z)

    x, y = torch.full((2, 6), 0.5), torch.tensor([0, 1])
    found = fastat.pgd(Every(), x, y, 0.1, steps=2, random_start=False, samples=2)
    assert ((found - x).abs() > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"momentum": -1}, r"momentum must be a finite number >= 0, got -1"),
        ({"diversity": 1.5}, r"diversity must be a probability, in \[0, 1\], got 1.5"),
        ({"samples": 0}, "samples must be an integer >= 1, got 0"),
        ({"nesterov": True}, "nesterov needs momentum > 0"),
        ({"nesterov": True, "momentum": 1, "norm": "l2"}, "and norm 'linf'"),
    ],
)
def test_bad_options(options, message):
    x, y = batch()
    with pytest.raises(ValueError, match=message):
        fastat.pgd(network(), x, y, 0.1, **options)
    with pytest.raises(ValueError, match=r"diversity needs images \[B, C, H, W\]"):
        fastat.pgd(nn.Linear(3, 2), torch.rand(2, 3), torch.tensor([0, 1]), diversity=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 1.0},
        {"momentum": 1.0, "nesterov": True},
        {"diversity": 0.7},
        {"quantize": 255},
        {"step_size": lambda step: 0.03 / (1 + step)},
        {"samples": 2},
    ],
    ids=lambda o: next(iter(o)),
)
@pytest.mark.parametrize("early_stop", [False, True])
def test_recorded(recorder, options, early_stop):
    model, (x, y) = network(), batch()
    for seed in (0, 1, 0):
        given = {"steps": 5, "seed": seed, "early_stop": early_stop, **options}
        recorded, plain = (fastat.pgd(model, x, y, 0.06, graph=graph, **given) for graph in (True, False))
        torch.testing.assert_close(recorded, plain, rtol=0, atol=1e-12)
    assert recorder.made > 0


def test_a_pass_that_is_nan_wins_nothing():
    class Third(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = network(), 0

        def forward(self, z):
            self.calls += 1
            return self.inner(z) * (torch.nan if self.calls % 3 == 0 else 1)

    x, _ = batch()
    y = network()(x).argmax(1)
    found = fastat.pgd(Third(), x, y, 0.03, steps=4, samples=3, early_stop=True, seed=0)
    plain = fastat.pgd(network(), x, y, 0.03, steps=4, samples=3, early_stop=True, seed=0)
    torch.testing.assert_close(found, plain)
