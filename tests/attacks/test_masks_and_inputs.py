"""Pixels that may not move, sizes that differ from pixel to pixel, and what the model takes beside the images."""

import math

import pytest
import torch
from size_cases import SIZES, in_full, size_of
from torch import nn

import fastat

P = {"linf": math.inf, "l2": 2, "l1": 1}
EPS = {"linf": 0.1, "l2": 0.8, "l1": 6.0}


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5)).to(dtype).eval()


def batch(dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(4, 3, 5, 6, generator=g, dtype=torch.float64).to(dtype)
    return x, torch.randint(5, (4,), generator=g)


MASKS = {
    "patch": (torch.arange(30) % 7 < 3).view(1, 1, 5, 6),
    "channel": torch.tensor([True, False, True]).view(3, 1, 1),
    "per sample": torch.rand(4, 1, 5, 6, generator=torch.Generator().manual_seed(2)) < 0.4,
    "one": torch.zeros(4, 3, 5, 6, dtype=torch.bool).index_fill_(3, torch.tensor([2]), True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("norm", P)
def test_what_is_masked_never_moves(norm, mask, dtype):
    x, y = batch(dtype)
    model = network(dtype)
    inside = mask.expand_as(x)
    for options in ({}, {"steps": 0}, {"early_stop": True}, {"keep": "best", "restarts": 2}, {"start": 1 - x}):
        found = fastat.pgd(model, x, y, EPS[norm], norm=norm, mask=mask, seed=0, **options)
        assert torch.equal(found[~inside], x[~inside])
        size = (found.double() - x.double()).flatten(1).norm(P[norm], dim=1)
        assert (size <= EPS[norm] * (1 + 1e-5) + 1e-6).all() and (size > 0).all()
    assert torch.equal(
        fastat.fgsm(model, x, y, EPS[norm], norm=norm, mask=mask.to(dtype), noise=1)[~inside], x[~inside]
    )


@pytest.mark.parametrize("norm", P)
def test_the_ball_is_that_of_the_masked_perturbation(norm):
    """As an attack on the pixels that may move alone, the others being a part of the model."""
    x, y = batch(torch.float64)
    mask = MASKS["patch"].expand(1, 3, 5, 6)
    model, inside = network(torch.float64), mask[0]

    class Part(nn.Module):
        def forward(self, part):
            return model(x.masked_scatter(inside.expand_as(x), part))

    part = x[inside.expand_as(x)].view(4, -1)
    start = fastat.random_start(part, 0.5 * EPS[norm], norm, 7)
    full = x.masked_scatter(inside.expand_as(x), start)
    options = {"norm": norm, "steps": 1 if norm == "l1" else 4}  # an l1 step moves a share of all coordinates
    found = fastat.pgd(model, x, y, EPS[norm], 0.3 * EPS[norm], mask=mask, start=full, **options)
    expected = fastat.pgd(Part(), part, y, EPS[norm], 0.3 * EPS[norm], start=start, **options)
    if norm != "l1":
        torch.testing.assert_close(found[inside.expand_as(x)].view(4, -1), expected, rtol=0, atol=1e-10)
    assert ((found - x).flatten(1).norm(P[norm], dim=1) > 0.3 * EPS[norm]).all()


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_masked_starts_are_uniform_in_the_masked_ball(norm):
    # In a ball of dimension n, (||u|| / eps)^n is uniform on (0, 1).
    n, batch = 5, 20_000
    x = torch.zeros(batch, 9)
    mask = torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1]).bool()[None]
    y = torch.zeros(batch, dtype=torch.int64)
    found = fastat.pgd(nn.Linear(9, 2), x, y, 2.0, steps=0, norm=norm, mask=mask, seed=1, bounds=None)
    radius = (found.double().norm(P[norm], dim=1) / 2.0) ** n
    grid = torch.linspace(0, 1, 21, dtype=torch.float64)
    cdf = torch.searchsorted(radius.sort().values, grid).double() / batch
    assert (cdf - grid).abs().max() < 2.5 / math.sqrt(batch)


def test_masked_and_normalized():
    x, y = batch()
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    normalized = fastat.Normalized(nn.Identity(), mean, std)(x)
    found = fastat.pgd(network(), normalized, y, 0.1, mask=MASKS["patch"], normalization=(mean, std), seed=0)
    inside = MASKS["patch"].expand_as(x)
    assert torch.equal(found[~inside], normalized[~inside]) and not torch.equal(found, normalized)


def test_bad_masks():
    x, y = batch()
    for mask, error, message in (
        (torch.full((1, 1, 5, 6), 0.5), ValueError, "mask must hold zeros and ones"),
        (
            torch.ones(2, 5, 6).bool(),
            ValueError,
            r"mask must broadcast against x \[4, 3, 5, 6\], got shape \[2, 5, 6\]",
        ),
        ("all", TypeError, "mask must be a bool tensor"),
        (torch.ones(4).bool(), None, None),
    ):
        if error is None:
            assert fastat.pgd(network(), x, y, 0.1, mask=mask, steps=1).shape == x.shape
            continue
        with pytest.raises(error, match=message):
            fastat.pgd(network(), x, y, 0.1, mask=mask)


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("name", SIZES)
def test_sizes_and_boxes_of_every_shape(name, early_stop):
    """In float64 and against the loop in plain PyTorch."""
    x, y = batch(torch.float64)
    model = network(torch.float64)
    eps, step = size_of(name, 0.02, 0.1).double(), size_of(name, 0.01, 0.03).double()
    lower = size_of(name, -0.2, 0.0).double()
    upper = lower + 1.2
    e, s, low, high = (in_full(t) for t in (eps, step, lower, upper))
    x = torch.minimum(torch.maximum(x, low), high)
    x_adv = x.clone()

    def loss(z, y):
        return torch.nn.functional.cross_entropy(z, y, reduction="none")

    for _ in range(3):
        leaf = x_adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(model(leaf), y).sum(), leaf)
        moved = x + torch.clamp(x_adv + s * grad.sign() - x, -e, e)
        x_adv = torch.minimum(torch.maximum(moved, low), high)
    options = {"early_stop": True, "won": lambda z, y: torch.zeros(len(y)).bool()} if early_stop else {}
    found = fastat.pgd(model, x, y, eps, step, 3, loss=loss, random_start=False, bounds=(lower, upper), **options)
    assert torch.equal(found, x_adv)


def test_rows_of_sizes_stay_with_their_samples():
    x, y = batch(torch.float64)
    model, eps = network(torch.float64), torch.tensor([0.01, 0.02, 0.05, 0.2], dtype=torch.float64)
    upper = torch.linspace(0.7, 1.0, 4, dtype=torch.float64).view(4, 1, 1, 1)
    x = torch.minimum(x, upper)

    def won(z, y):
        return y == 1

    y = torch.tensor([1, 0, 1, 0])
    options = {"steps": 4, "seed": 0, "bounds": (0.0, upper), "restarts": 2}
    plain = fastat.pgd(model, x, y, eps, **options)
    stopped = fastat.pgd(model, x, y, eps, early_stop=True, won=won, **options)
    assert ((stopped - x).abs().flatten(1).amax(1) <= eps + 1e-12).all() and (stopped <= upper).all()
    assert ((plain - x).abs().flatten(1).amax(1) > 0.9 * eps).all()


def test_images_outside_a_box_of_tensors_are_refused():
    x, y = batch()
    lower = torch.tensor([0.0, 0.0, -1.0]).view(3, 1, 1)
    with pytest.raises(ValueError, match=r"x has values up to 0.5 outside the bounds"):
        fastat.pgd(network(), torch.where(torch.arange(3).view(3, 1, 1) == 0, -0.5, x), y, bounds=(lower, lower + 2))
    with pytest.raises(ValueError, match="bounds must have lower <= upper"):
        fastat.pgd(network(), x, y, bounds=(lower, lower - 1))
    with pytest.raises(ValueError, match=r"eps must be a number or one per sample for norm 'l2', got \[3, 1, 1\]"):
        fastat.pgd(network(), x, y, torch.rand(3, 1, 1), norm="l2")
    square = torch.rand(4, 4)
    with pytest.raises(ValueError, match=r"eps of shape \[4\] may be one per sample or one per entry"):
        fastat.pgd(nn.Linear(4, 3), square, y % 3, torch.rand(4))
    with pytest.raises(ValueError, match=r"bounds of shape \[4\] may be one per sample"):
        fastat.pgd(nn.Linear(4, 3), square, y % 3, bounds=(torch.zeros(4), None))


class Conditioned(nn.Module):
    """Takes a vector beside the images, by place or by name, and a switch."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.images, self.inner = nn.Flatten(), nn.Linear(90, 5).to(dtype)
        self.seen = []

    def forward(self, x, shift, scale=None, *, double=False):
        self.seen.append(len(shift))
        assert len(x) == len(shift)
        logits = self.inner(self.images(x)) + shift
        return (logits if scale is None else logits * scale) * (2 if double else 1)


@pytest.mark.parametrize("by_name", [False, True])
def test_inputs_beside_the_images(by_name):
    x, y = batch(torch.float64)
    torch.manual_seed(0)
    model = Conditioned()
    shift, scale = torch.randn(4, 5).double(), 1 + torch.rand(4, 1).double()
    inputs = {"shift": shift, "scale": scale, "double": True} if by_name else (shift, scale)

    def closed(z):
        return (model.inner(z.flatten(1)) + shift) * scale * (2 if by_name else 1)

    for options in ({}, {"keep": "best"}, {"loss": "kl"}, {"restarts": 2}):
        found = fastat.pgd(model, x, y, 0.05, seed=0, inputs=inputs, **options)
        torch.testing.assert_close(found, fastat.pgd(closed, x, y, 0.05, seed=0, **options), rtol=0, atol=1e-12)
    found = fastat.fgsm(model, x, y, 0.05, inputs=inputs)
    torch.testing.assert_close(found, fastat.fgsm(closed, x, y, 0.05), rtol=0, atol=1e-12)
    model.seen.clear()

    def won(z, y):
        return y == y[-1]

    fastat.pgd(model, x, torch.tensor([1, 2, 3, 0]), 0.05, steps=3, inputs=inputs, early_stop=True, won=won)
    assert model.seen[0] == 4 and model.seen[-1] < 4  # rows leave together


def test_inputs_that_do_not_fit():
    x, y = batch(torch.float64)
    with pytest.raises(
        ValueError, match=r"inputs\[0\] must have a row for each of the 4 samples, got shape \[5\].*lambda"
    ):
        fastat.pgd(Conditioned(), x, y, inputs=(torch.randn(5).double(),))
    with pytest.raises(TypeError, match="inputs must be a tuple or a dict of what else the model takes, got Tensor"):
        fastat.pgd(Conditioned(), x, y, inputs=torch.randn(4, 5).double())


def test_recordings_know_masks_and_inputs(recorder):
    x, y = batch(torch.float64)

    class Silent(Conditioned):
        def forward(self, x, shift):
            return self.inner(self.images(x)) + shift

    model = Silent()
    for shift in (torch.randn(4, 5).double(), torch.randn(4, 5).double()):
        for mask in (MASKS["patch"], MASKS["channel"], None):
            options = {"inputs": (shift,), "mask": mask, "seed": 0, "steps": 2}
            recorded = fastat.pgd(model, x, y, 0.1, graph=True, **options)
            assert torch.equal(recorded, fastat.pgd(model, x, y, 0.1, **options))
    assert recorder.made == 3


def test_a_start_is_masked_before_it_is_projected():
    x = torch.full((4, 3, 8, 8), 0.5)
    mask = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :2, :2] = True
    start = x + 0.3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    options = {"norm": "l2", "steps": 0, "bounds": None, "mask": mask}
    found = fastat.pgd(model, x, torch.zeros(4).long(), 0.5, start=start, **options)
    part = fastat.project_(torch.where(mask, start, x), x, 0.5, "l2", None, None)
    torch.testing.assert_close(found, part)
    assert ((found - x).flatten(1).norm(dim=1) > 0.49).all()


def test_an_l1_step_moves_a_share_of_what_may_move():
    x = torch.full((2, 3, 20, 20), 0.5)
    mask = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
    mask[..., :10, :10] = True  # 300 entries of 1,200
    model = nn.Sequential(nn.Flatten(), nn.Linear(1200, 3))
    options = {"norm": "l1", "steps": 1, "random_start": False}
    found = fastat.pgd(model, x, torch.zeros(2).long(), 5.0, mask=mask, **options)
    assert (found != x).flatten(1).sum(1).tolist() == [15, 15]
    assert (fastat.pgd(model, x, torch.zeros(2).long(), 5.0, **options) != x).flatten(1).sum(1).tolist() == [60, 60]


def test_entries_with_a_box_of_one_point_do_not_move():
    x, y = batch()
    lower = torch.zeros(1, 3, 5, 6)
    lower[:, 1] = x[:1, 1]
    upper = torch.ones(1, 3, 5, 6)
    upper[:, 1] = x[:1, 1]
    found = fastat.pgd(network(), x[:1], y[:1], 0.1, bounds=(lower, upper), seed=0)
    assert torch.equal(found[:, 1], x[:1, 1]) and not torch.equal(found[:, 0], x[:1, 0])
