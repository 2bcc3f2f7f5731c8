"""Losses of one's own take whatever labels they want; compiled losses take one logit, positions and several labels."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastat


def textbook(gradient, x, eps, step, steps, start):
    """PGD in linf on the gradient of a function of x."""
    x_adv = start.clone()
    for _ in range(steps):
        leaf = x_adv.clone().requires_grad_()
        (grad,) = torch.autograd.grad(gradient(leaf), leaf)
        x_adv = (x + (x_adv + step * grad.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


def regressor(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, outputs)).eval()


def squares(output, y):
    return (output - y).square().flatten(1).sum(1)


def test_regression_with_real_targets():
    model, x, y = regressor(2), torch.rand(16, 12), torch.randn(16, 2)
    start = fastat.random_start(x, 0.1, "linf", 3)
    found = fastat.pgd(model, x, y, 0.1, 0.03, 5, loss=squares, start=start)
    assert torch.equal(found, textbook(lambda z: squares(model(z), y).sum(), x, 0.1, 0.03, 5, start))
    mean = fastat.pgd(model, x, y, 0.1, 0.03, 5, loss=lambda z, y: F.mse_loss(z, y, reduction="mean"), start=start)
    assert torch.equal(mean, found)  # of 32 numbers: a power of two


@pytest.mark.parametrize("early_stop", [False, True])
def test_restarts_rank_by_the_loss(early_stop):
    """Of every restart the best is returned: each run is made alone, by its key, and compared in float64."""
    model, x, y = regressor(1).double(), torch.rand(20, 12).double(), torch.randn(20, 1).double()
    extra = {"won": lambda output, y: torch.zeros(len(y), dtype=torch.bool), "early_stop": True} if early_stop else {}
    starts = [fastat.random_start(x, 0.2, "linf", 5, draw=k) for k in range(4)]
    runs = [fastat.pgd(model, x, y, 0.2, 0.1, 2, loss=squares, start=start) for start in starts]
    losses = torch.stack([squares(model(a), y) for a in runs]).detach()
    found = fastat.pgd(model, x, y, 0.2, 0.1, 2, loss=squares, restarts=4, seed=5, **extra)
    torch.testing.assert_close(squares(model(found), y), losses.amax(0))
    assert (losses.argmax(0) > 0).any() and (losses[0] < losses.amax(0)).any()


def test_early_stop_asks_what_is_won():
    model, x, y = regressor(1).double(), torch.rand(20, 12).double(), torch.randn(20, 1).double()
    limit = squares(model(x), y).detach() + 0.05
    seen = []

    def won(output, labels):
        seen.append(len(labels["y"]))
        return squares(output, labels["y"]) > labels["limit"]

    labels = {"y": y, "limit": limit}
    options = {"loss": lambda z, labels: squares(z, labels["y"]), "random_start": False}
    iterates = [fastat.pgd(model, x, labels, 0.1, 0.01, k, **options) for k in range(9)]
    beyond = torch.stack([squares(model(a), y) > limit for a in iterates[:8]])
    found = fastat.pgd(model, x, labels, 0.1, 0.01, 8, won=won, early_stop=True, **options)
    first = beyond.to(torch.int8).argmax(0)
    assert 0 < beyond.any(0).sum() < 20 or beyond.any(0).all()
    for i in range(20):
        expected = iterates[first[i]][i] if beyond[:, i].any() else iterates[8][i]
        torch.testing.assert_close(found[i], expected, rtol=0, atol=1e-12)
    assert seen == sorted(seen, reverse=True) and seen[-1] < 20


def test_restarts_take_what_is_won_before_what_has_a_higher_loss():
    model, x, y = regressor(1), torch.rand(10, 12), torch.zeros(10, 1)
    starts = [fastat.random_start(x, 0.2, "linf", 1, draw=k) for k in range(3)]
    outputs = torch.stack([model(a)[:, 0] for a in starts])
    wanted = outputs.amin(0)  # the least output is the one that is won, whatever its loss

    def won(output, y):
        return output[:, 0] <= wanted + 1e-6

    found = fastat.pgd(model, x, y, 0.2, steps=0, restarts=3, seed=1, loss=squares, won=won)
    torch.testing.assert_close(model(found)[:, 0], wanted)


def test_early_stop_without_won_is_refused():
    model, x = regressor(1), torch.rand(4, 12)
    with pytest.raises(ValueError, match=r"early_stop with loss of your own needs won, a function \(output, y\)"):
        fastat.pgd(model, x, torch.rand(4, 1), loss=squares, early_stop=True)
    with pytest.raises(ValueError, match="early_stop with loss 'bce' needs won"):
        fastat.pgd(model, x, torch.ones(4, 1), loss="bce", early_stop=True)
    with pytest.raises(ValueError, match=r"won\(output, y\) must return a bool for each sample \[4\], got \[4, 1\]"):
        fastat.pgd(model, x, torch.rand(4, 1), loss=squares, early_stop=True, won=lambda z, y: z > y)
    with pytest.raises(TypeError, match="won must be a function"):
        fastat.pgd(model, x, torch.rand(4, 1), loss=squares, won=True)
    with pytest.raises(ValueError, match=r"one number for the batch will do where nothing is ranked"):
        fastat.pgd(model, x, torch.rand(4, 1), loss=F.mse_loss, restarts=2)


@pytest.mark.parametrize("kind", ["tuple", "list", "dict", "nested"])
def test_labels_keep_their_structure_and_are_indexed_by_row(kind):
    model, x = regressor(1).double(), torch.rand(12, 12).double()
    y, weight = torch.randn(12, 1).double(), torch.rand(12).double()
    made = {
        "tuple": ((y, weight), lambda t: t),
        "list": ([y, weight], tuple),
        "dict": ({"y": y, "weight": weight}, lambda t: (t["y"], t["weight"])),
        "nested": ({"of": (y, [weight, None, "kept"])}, lambda t: (t["of"][0], t["of"][1][0])),
    }
    labels, parts = made[kind]
    seen = []

    def loss(output, given):
        assert type(given) is type(labels) and (kind != "nested" or given["of"][1][1:] == [None, "kept"])
        target, weights = parts(given)
        seen.append(len(target))
        return weights * squares(output, target)

    plain = fastat.pgd(model, x, labels, 0.1, 0.02, 4, loss=loss, seed=0)
    torch.testing.assert_close(plain, fastat.pgd(model, x, y, 0.1, 0.02, 4, loss=squares, seed=0), rtol=0, atol=1e-12)
    half = torch.arange(12) % 2 == 0

    def won(output, given):
        _target, weights = parts(given)
        return (weights[:, None] == weight[half]).any(1)

    fastat.pgd(model, x, labels, 0.1, 0.02, 4, loss=loss, won=won, early_stop=True, seed=0)
    assert seen[4:] == [12, 6, 6, 6]


def test_segmentation_by_a_loss_of_ones_own():
    torch.manual_seed(0)
    model = nn.Conv2d(1, 3, 3, padding=1)
    x, y = torch.rand(4, 1, 5, 5), torch.randint(3, (4, 5, 5))
    y[:, 0] = -100
    own = fastat.pgd(
        model, x, y, 0.1, 0.03, 3, loss=lambda z, y: F.cross_entropy(z, y, reduction="none").mean((1, 2)), seed=0
    )
    compiled = fastat.pgd(model, x, y, 0.1, 0.03, 3, seed=0)
    assert (own == compiled).float().mean() > 0.99  # up to rounding
    with pytest.raises(ValueError, match="a row for each of the 4 samples"):
        fastat.pgd(model, x, y[:3], loss=lambda z, y: z.flatten(1).sum(1))


@pytest.mark.parametrize("kind", ["ce", "margin", "dlr", "kl"])
@pytest.mark.parametrize("spatial", [(4, 3), (5,), (2, 2, 2)])
def test_positions_count_as_in_torch(kind, spatial):
    """The loss of a sample is the mean over the positions that count, and its gradient that of their sum."""
    from fastat.attacks.objective import Goal, Objective

    torch.manual_seed(0)
    logits = torch.randn(3, 6, *spatial, dtype=torch.float64)
    y = torch.randint(6, (3, *spatial))
    y[0].view(-1)[:2], y[2] = 255, 255
    other = torch.randn_like(logits)
    goal = Goal(kind, independent=True, ignore_index=255)
    objective = Objective(lambda z: z, goal, y, lambda classes: None, reference=other if kind == "kl" else None)
    output, loss, grad = objective.gradient(logits)
    leaf = logits.clone().requires_grad_()
    rows, labels = leaf.movedim(1, -1).reshape(-1, 6), y.flatten()
    counted = labels != 255
    wanted = {"reference": other.movedim(1, -1).reshape(-1, 6)[counted]} if kind == "kl" else {}
    each = leaf.new_zeros(len(labels))
    if kind == "ce":
        each = F.cross_entropy(rows, labels, ignore_index=255, reduction="none")
    else:
        each = each.masked_scatter(counted, fastat.attack_loss(rows[counted], labels[counted], kind, **wanted)[0])
    count = counted.view(3, -1).sum(1).clamp(min=1)
    expected = each.view(3, -1).sum(1) / count
    (exact,) = torch.autograd.grad(expected.sum(), leaf)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(grad / count.view(3, *[1] * (logits.dim() - 1)), exact)  # that of the sum
    assert loss[2] == 0 and grad[2].count_nonzero() == 0
    assert objective.won(output, 3) is None


def test_dense_outputs_say_what_they_need():
    model, x = nn.Conv2d(1, 3, 1), torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"y must have shape \[2, 4, 4\] for logits \[2, 3, 4, 4\], one label"):
        fastat.pgd(model, x, torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"early_stop needs won.* unless there are labels y \[B\] and one"):
        fastat.pgd(model, x, torch.zeros(2, 4, 4, dtype=torch.int64), early_stop=True)
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got 7"):
        fastat.pgd(model, x, torch.full((2, 4, 4), 7))
    with pytest.raises(ValueError, match="y must be >= 0, got -3"):
        fastat.pgd(model, x, torch.full((2, 4, 4), -3))
    y = torch.randint(3, (2, 4, 4))
    won = {"won": lambda z, y: (z.argmax(1) != y).flatten(1).float().mean(1) > 0.9, "early_stop": True}
    assert fastat.pgd(model, x, y, 0.3, **won).shape == x.shape
    assert fastat.pgd(model, x, y, 0.3, restarts=3, seed=0).shape == x.shape


class Binary(nn.Module):
    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.shape = nn.Linear(12, 1), shape

    def forward(self, x):
        return self.linear(x).view(-1, *self.shape)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("loss", ["ce", "margin", "kl", "log_odds"])
def test_one_logit_is_that_of_class_1(loss, shape):
    model, x = Binary(shape).double(), torch.rand(30, 12).double()
    model.linear.bias.data -= model(x).median()
    y = (model(x).flatten() > 0).long()

    def pair(z):
        return torch.stack([torch.zeros(len(z)).double(), model(z).flatten()], 1)

    for options in (
        {},
        {"early_stop": True},
        {"restarts": 2, "keep": "best"},
        {"targets": 1 - y} if loss != "kl" else {},
    ):
        one = fastat.pgd(model, x, y, 0.05, steps=4, seed=0, loss=loss, **options)
        two = fastat.pgd(pair, x, y, 0.05, steps=4, seed=0, loss=loss, **options)
        torch.testing.assert_close(one, two, rtol=0, atol=1e-12)
    broken = (model(fastat.pgd(model, x, y, 0.05, seed=0)).flatten() > 0).long() != y
    assert broken.sum() > 0
    with pytest.raises(ValueError, match=r"labels must be in \[0, 2\), got 2"):
        fastat.pgd(model, x, y + 1, 0.05)
    accuracy = fastat.evaluation.evaluate(model, x, y, 0.05, attacks=("fgsm", "pgd-5")).accuracy
    exact = ((model(x).flatten() * (2 * y - 1)) > 0.05 * model.linear.weight.abs().sum()).double().mean()
    assert accuracy["clean"] == 1 and exact <= accuracy["fgsm"] <= exact + 0.1  # the box helps a little


def test_several_labels():
    torch.manual_seed(0)
    model = nn.Linear(12, 5).double()
    x, y = torch.rand(8, 12).double(), torch.randint(2, (8, 5))

    def bce(z, y):
        return F.binary_cross_entropy_with_logits(z, y.double(), reduction="none").sum(1)

    start = fastat.random_start(x, 0.1, "linf", 2)
    expected = textbook(lambda z: bce(model(z), y).sum(), x, 0.1, 0.03, 4, start)
    for labels in (y, y.bool(), y.float()):
        found = fastat.pgd(model, x, labels, 0.1, 0.03, 4, loss="bce", start=start)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert (bce(model(found), y) > bce(model(start), y)).all()
    towards = fastat.pgd(model, x, y, 0.1, 0.03, 4, loss="bce", start=start, targets=1 - y)
    assert (bce(model(towards), 1 - y) < bce(model(start), 1 - y)).all()
    best = fastat.pgd(model, x, y, 0.1, loss="bce", restarts=3, seed=0)
    assert (bce(model(best), y) >= bce(model(fastat.pgd(model, x, y, 0.1, loss="bce", seed=0)), y) - 1e-9).all()
    with pytest.raises(ValueError, match=r"y must be in \[0, 1\] for 'bce', got values in \[0, 2\]"):
        fastat.pgd(model, x, 2 * y, 0.1, loss="bce")
    with pytest.raises(ValueError, match=r"y must have shape \[8, 5\] for logits \[8, 5\], got \[8, 4\]"):
        fastat.pgd(model, x, y[:, :4], 0.1, loss="bce")
    with pytest.raises(ValueError, match=r"y must have shape \[8, 5\] for logits \[8, 5\], got \[8\]"):
        fastat.pgd(model, x, y[:, 0], 0.1, loss="bce")


def test_a_loss_that_is_infinite_has_not_won():
    model, x, y = regressor(1), torch.rand(6, 12), torch.randn(6, 1)
    calls = []

    def loss(output, y):
        calls.append(len(y))
        return squares(output, y) + torch.inf

    fastat.pgd(model, x, y, 0.1, steps=3, loss=loss, won=lambda z, y: torch.zeros(len(y)).bool(), early_stop=True)
    assert calls == [6, 6, 6]


def test_recordings_with_labels_of_ones_own(recorder):
    model, x = regressor(1), torch.rand(6, 12)
    labels = {"y": torch.randn(6, 1), "weight": torch.rand(6)}

    def loss(z, t):
        return t["weight"] * squares(z, t["y"])

    def won(z, t):
        return t["weight"] > 0.5

    for other in (labels, {"y": labels["y"] + 1, "weight": labels["weight"].flip(0)}):
        for options in ({}, {"won": won, "early_stop": True}):
            given = {"loss": loss, "seed": 1, "steps": 3, **options}
            recorded = fastat.pgd(model, x, other, 0.1, graph=True, **given)
            torch.testing.assert_close(recorded, fastat.pgd(model, x, other, 0.1, **given), rtol=0, atol=1e-6)
    assert recorder.made > 0
    made = recorder.made
    fastat.pgd(model, x, labels, 0.1, graph=True, loss=loss, seed=1, steps=3)
    assert recorder.made == made


def test_won_is_asked_about_what_the_model_returned():
    model, x = Binary((1,)).double(), torch.rand(20, 12).double()
    model.linear.bias.data -= model(x).median()
    y = (model(x).flatten() > 0).long()
    seen = []

    def won(output, y):
        seen.append(output.shape)
        return (output[:, 0] > 0).long() != y

    found = fastat.pgd(model, x, y, 0.05, seed=0, early_stop=True, won=won)
    assert seen[0] == (20, 1)
    torch.testing.assert_close(found, fastat.pgd(model, x, y, 0.05, seed=0, early_stop=True))


@pytest.mark.parametrize("shape", [(), (1,)])
def test_bce_of_one_logit(shape):
    model, x = Binary(shape).double(), torch.rand(20, 12).double()
    y = (model(x).flatten() > 0).long()
    start = fastat.random_start(x, 0.05, "linf", 1)
    expected = textbook(
        lambda z: F.binary_cross_entropy_with_logits(model(z).flatten(), y.double(), reduction="sum"),
        x,
        0.05,
        0.02,
        4,
        start,
    )
    for labels in (y, y.view(-1, 1), y.bool()):
        found = fastat.pgd(model, x, labels, 0.05, 0.02, 4, loss="bce", start=start)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_binary_segmentation():
    torch.manual_seed(0)
    model = nn.Conv2d(1, 1, 3, padding=1).double()
    x, y = torch.rand(3, 1, 6, 6).double(), torch.randint(2, (3, 6, 6))
    start = fastat.random_start(x, 0.05, "linf", 1)
    bce = lambda z: F.binary_cross_entropy_with_logits(model(z)[:, 0], y.double(), reduction="sum")  # noqa: E731
    found = fastat.pgd(model, x, y, 0.05, 0.02, 4, start=start)
    torch.testing.assert_close(found, textbook(bce, x, 0.05, 0.02, 4, start), rtol=0, atol=1e-12)


def test_half_precision_keeps_the_gradient_of_many_positions():
    from fastat.attacks.objective import Goal, Objective

    torch.manual_seed(0)
    logits, y = torch.randn(1, 19, 256, 256), torch.randint(19, (1, 256, 256))
    exact = Objective(lambda z: z, Goal("ce"), y, lambda classes: None).gradient(logits)[2]
    half = Objective(lambda z: z, Goal("ce"), y, lambda classes: None).gradient(logits.half())[2].float()
    assert ((half - exact).abs().sum() / exact.abs().sum()) < 1e-3


def test_targets_that_do_not_count():
    torch.manual_seed(0)
    model, x = nn.Conv2d(1, 4, 3, padding=1), torch.rand(2, 1, 4, 4)
    y, targets = torch.randint(4, (2, 4, 4)), torch.randint(4, (2, 4, 4))
    targets[:, :2] = -100
    found = fastat.pgd(model, x, y, 0.1, targets=targets, loss="dlr_targeted", seed=0)
    y[:, :2] = -100
    torch.testing.assert_close(found, fastat.pgd(model, x, y, 0.1, targets=targets, loss="dlr_targeted", seed=0))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.rand(4).numpy(), "y must be a tensor with a row for each sample, got ndarray: torch.as_tensor"),
        ([1.0, 2.0, 3.0, 4.0], "y is a list of 4 float: pass a tensor of them"),
        ({"texts": ["a", "b", "c", "d"]}, r"y\[0\] is a list of 4 str"),
        ({"box": object()}, r"y\[0\] must be a tensor with a row for each sample, got object: put it into the model"),
    ],
)
def test_labels_without_rows_are_refused(y, message):
    with pytest.raises(TypeError, match=message):
        fastat.pgd(regressor(), torch.rand(4, 12), y, 0.1, loss=lambda z, y: z[:, 0])


def test_labels_are_told_apart_by_place_and_type(recorder):
    model, x = regressor(), torch.rand(4, 12)
    zeros, ones = torch.zeros(4), torch.ones(4)
    seen = []
    loss = lambda z, y: seen.append((y[0].mean().item(), y["0"].mean().item())) or z[:, 0]  # noqa: E731
    fastat.pgd(model, x, {0: zeros, "0": ones}, 0.1, steps=1, loss=loss)
    assert seen == [(0.0, 1.0)]
    sign = lambda z, y: z[:, 0] * (1 if y["up"] is True else -1)  # noqa: E731
    for up in (True, 1, True):
        options = {"steps": 2, "loss": sign, "seed": 0}
        found = fastat.pgd(model, x, {"up": up}, 0.1, graph=True, **options)
        assert torch.equal(found, fastat.pgd(model, x, {"up": up}, 0.1, **options))


def test_kl_needs_no_labels():
    torch.manual_seed(0)
    model, x = nn.Linear(12, 3), torch.rand(4, 12)
    y = torch.zeros(4, dtype=torch.int64)
    assert torch.equal(
        fastat.pgd(model, x, None, 0.1, loss="kl", seed=0), fastat.pgd(model, x, y, 0.1, loss="kl", seed=0)
    )
    with pytest.raises(ValueError, match="early_stop needs won"):
        fastat.pgd(model, x, None, 0.1, loss="kl", seed=0, early_stop=True)
