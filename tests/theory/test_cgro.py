"""The memorizer: its certificate, its ReLU network, what it costs and what it leaves alone."""

import copy

import pytest
import torch
from torch import nn

from fastat import data, pgd
from fastat.theory.cgro import RobustMemorizer
from fastat.theory.cgro.networks import corner_accuracy
from fastat.theory.cgro.separation import close_pairs, least_separation

DTYPES = (torch.float32, torch.float64)


def some_model(outputs: int, dim: int, dtype: torch.dtype = torch.float32, size: float = 5.0) -> nn.Module:
    """A network that knows nothing of the points; its logits are of the given size, about."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(dim, 32), nn.ReLU(), nn.Linear(32, outputs)).to(dtype)
    with torch.no_grad():
        model[-1].weight *= size * 5
    return model


def apart(n: int, dim: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    """Random points in the unit box with random classes."""
    return torch.rand(n, dim, dtype=dtype), torch.randint(0, classes, (n,))


def brute_force(x, points, norm):
    difference = x[:, None] - points[None]
    return difference.abs().amax(2) if norm == "linf" else difference.norm(dim=2)


def in_ball(x, delta, norm, corners):
    """A random point of each ball: a corner, or anywhere on the sphere."""
    if norm == "linf":
        return x + delta * (torch.sign(torch.randn_like(x)) if corners else torch.rand_like(x) * 2 - 1)
    direction = torch.randn_like(x)
    return x + delta * direction / direction.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(("n", "dim"), [(300, 3), (200, 70)])
def test_close_pairs_and_separation_by_brute_force(norm, n, dim):
    points, labels = apart(n, dim, 3)
    x = torch.rand(50, dim, dtype=torch.float64)
    distances = brute_force(x, points, norm)
    radius = float(distances.quantile(0.1))
    rows, columns = close_pairs(x, points, radius, norm)
    expected = (distances < radius).nonzero()
    assert sorted(map(list, zip(rows.tolist(), columns.tolist(), strict=True))) == expected.tolist()

    between = brute_force(points, points, norm)
    between[labels[:, None] == labels[None]] = torch.inf
    least, (i, j) = least_separation(points, labels, norm)
    assert least == pytest.approx(float(between.min()), rel=1e-12)
    assert float(between[i, j]) == pytest.approx(least, rel=1e-12) and i < j


def test_close_pairs_do_not_depend_on_the_size_of_the_blocks(monkeypatch):
    from fastat.theory.cgro import separation

    points, labels = apart(120, 40, 4)
    whole = close_pairs(points, points, 0.8), least_separation(points, labels)
    monkeypatch.setattr(separation, "_TABLE", 700)
    monkeypatch.setattr(separation, "_GATHERED", 130)
    parts = close_pairs(points, points, 0.8), least_separation(points, labels)
    for one, other in zip(whole[0], parts[0], strict=True):
        assert torch.equal(one, other)
    assert whole[1] == parts[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("outputs", [1, 4])
def test_every_ball_is_certified_and_classified_right(dtype, norm, outputs):
    x, classes = apart(60, 6, max(outputs, 2), dtype)
    y = 2 * classes - 1 if outputs == 1 else classes
    separation, _ = least_separation(x, y, norm)
    delta = 0.49 * separation
    model = some_model(outputs, 6, dtype)
    memorizer = RobustMemorizer(model, x, y, delta, norm)
    margin = memorizer.certify()
    assert margin.shape == (60,) and margin.dtype == dtype and bool((margin > 0).all())
    wrong_before = 0
    for k in range(50):
        inside = in_ball(x, delta, norm, corners=k % 2 == 0)
        logits, plain = memorizer(inside), model(inside)
        if outputs == 1:
            seen = y * logits[:, 0]
            wrong_before += int((y * plain[:, 0] <= 0).sum())
        else:
            own = logits.gather(1, y[:, None])[:, 0]
            seen = own - logits.scatter(1, y[:, None], -torch.inf).amax(1)
            wrong_before += int((plain.argmax(1) != y).sum())
        assert bool((seen >= margin * (1 - 1e-5)).all())
    assert wrong_before > 100  # the certificate is not the model's merit


def test_the_certificate_is_attained_where_the_model_is_as_wrong_as_it_can_be():
    x, y = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([-50.0, 50.0]))
    memorizer = RobustMemorizer(model, x, y, 0.3)
    logits = memorizer(x).detach()
    assert float(logits[0, 0] - logits[0, 1]) == pytest.approx(float(memorizer.certify()[0]))


def test_the_certificate_is_computed_from_the_points():
    x, y = apart(40, 5, 2, torch.float32)
    delta = 0.45 * least_separation(x, y)[0]
    memorizer = RobustMemorizer(some_model(2, 5), x, y, delta)
    other = int((y != y[0]).nonzero()[0])
    memorizer.points[other] = memorizer.points[0] + 0.5 * delta  # now these two balls meet
    margin = memorizer.certify()
    assert float(margin[0]) <= 0 and float(margin[other]) <= 0


@pytest.mark.parametrize("outputs", [1, 3])
def test_it_is_the_relu_network_of_the_construction(outputs):
    """Dense layers with the published weights give the same numbers, and have as many nonzero ones as were counted."""
    n, dim, dtype = 12, 4, torch.float64
    x, classes = apart(n, dim, max(outputs, 2))
    y = 2 * classes - 1 if outputs == 1 else classes
    memorizer = RobustMemorizer(some_model(outputs, dim, dtype), x, y, 0.3 * least_separation(x, y)[0])
    radius, ramp = memorizer._radius, memorizer.ramp
    first, second, last = (
        nn.Linear(dim, 2 * n * dim, dtype=dtype), nn.Linear(2 * n * dim, n, dtype=dtype),
        nn.Linear(n, outputs, bias=False, dtype=dtype),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (first, second, last):
            for parameter in layer.parameters():
                parameter.zero_()
        for i in range(n):
            for k in range(dim):
                for side, unit in ((1, 2 * (i * dim + k)), (-1, 2 * (i * dim + k) + 1)):
                    first.weight[unit, k], first.bias[unit] = side, -side * x[i, k] - radius
                    second.weight[i, unit] = -1 / ramp
            second.bias[i] = 1
            last.weight[0 if outputs == 1 else y[i], i] = memorizer.height * (y[i] if outputs == 1 else 1)
    network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), last)
    some = torch.cat([torch.rand(200, dim, dtype=dtype), x + 1.3 * radius * (torch.rand(n, dim, dtype=dtype) * 2 - 1)])
    torch.testing.assert_close(memorizer(some), memorizer.clipped(some) + network(some))
    assert memorizer.parameter_count() == sum(int((p != 0).sum()) for p in network.parameters())


def test_parameters_are_linear_in_points_and_dimension():
    def count(n: int, dim: int) -> int:
        x, y = torch.rand(n, dim), torch.arange(n) % 2
        x[:, 0] = y + 0.1 * x[:, 0]
        return RobustMemorizer(some_model(2, dim), x, y, 0.2).parameter_count()

    assert count(40, 10) == 6 * 40 * 10 + 2 * 40
    assert count(80, 10) == 2 * count(40, 10)
    assert count(40, 1000) / count(40, 100) == pytest.approx(10, rel=0.01)


def test_elsewhere_the_class_is_the_models():
    x, y = apart(50, 5, 4)
    model = some_model(4, 5, torch.float64, size=200)
    memorizer = RobustMemorizer(model, x, y, 0.3 * least_separation(x, y)[0])
    some = 3 * torch.rand(500, 5, dtype=torch.float64) - 1
    away = memorizer.class_bumps(some).sum(1) == 0
    assert int(away.sum()) > 100
    assert torch.equal(memorizer(some)[away].argmax(1), model(some)[away].argmax(1))
    assert float(memorizer.clipped(some).detach().abs().max()) <= memorizer.clip


def test_in_foreign_bump_by_hand():
    x, y = torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    memorizer = RobustMemorizer(some_model(2, 2), x, y, 0.2)
    assert memorizer.ramp == pytest.approx(0.3, rel=1e-4)
    some = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.45, 0.0], [0.55, 0.0], [0.9, 0.0], [0.45, 0.3]])
    labels = torch.tensor([0, 1, 1, 0, 0, 1])
    # the last is 0.25 + 0.1 outside the ball of x[0]: more than the ramp in sum, though not in any coordinate
    assert memorizer.in_foreign_bump(some, labels).tolist() == [False, True, True, True, True, False]


def test_attacks_find_nothing_and_get_its_gradient():
    split = data.load("digits")
    train = split.train.subset(200, 0)
    x, y = train.pixels(), train.labels
    model = some_model(10, 64)
    memorizer = RobustMemorizer(model, x, y, 0.15)
    for norm_seed in range(2):
        x_adv = pgd(memorizer, x, y, 0.15, steps=10, seed=norm_seed)
        assert bool((memorizer(x_adv).argmax(1) == y).all())
    assert corner_accuracy(memorizer, x, y, 0.15, 10) == 1
    assert corner_accuracy(model, x, y, 0.15, 10) < 0.5

    # between two balls the bumps have a slope: autograd's is that of finite differences
    double = RobustMemorizer(some_model(10, 64, torch.float64), x.double(), y, 0.15)
    outside = (x[:3].double() + 0.1501 * torch.sign(torch.randn(3, 1, 8, 8, dtype=torch.float64))).requires_grad_()
    assert bool((double.class_bumps(outside).sum(1) < 1).all())
    assert torch.autograd.gradcheck(lambda z: double.class_bumps(z), (outside,))


def test_the_model_is_left_as_it_is():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    before, training = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    x, y = apart(30, 5, 3, torch.float32)
    memorizer = RobustMemorizer(model, x, y, 0.2 * least_separation(x, y)[0])
    memorizer.double().eval().requires_grad_(False)
    assert [module.training for module in model.modules()] == training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad and weight.dtype == torch.float32 for weight in model.parameters())
    assert memorizer(x.double()).dtype == torch.float64


def test_a_single_class_and_images_of_any_shape():
    x = torch.rand(6, 1, 4, 4)
    memorizer = RobustMemorizer(some_model(3, 16), x, torch.full((6,), 2), 0.1)
    assert memorizer.separation == torch.inf
    assert bool((memorizer.certify() > 0).all()) and memorizer(x).argmax(1).tolist() == [2] * 6


def test_what_cannot_be_memorized_is_refused():
    x, y = torch.tensor([[0.0, 0.0], [0.5, 0.5], [0.5, 0.1]]), torch.tensor([0, 0, 1])
    model = some_model(2, 2)
    with pytest.raises(
        ValueError, match=r"2 delta = 0.4 apart, but x\[1\] and x\[2\] \(classes 0 and 1\) are 0.4 apart"
    ):
        RobustMemorizer(model, x, y, 0.2)
    RobustMemorizer(model, x, y, 0.199)
    with pytest.raises(ValueError, match=r"y must be in 0..1 .* got 0..2"):
        RobustMemorizer(model, x, torch.tensor([0, 1, 2]), 0.01)
    with pytest.raises(ValueError, match=r"y must be -1 or \+1 for a model with one output, got 0"):
        RobustMemorizer(some_model(1, 2), x, y, 0.01)
    for delta in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="delta must be finite and above 0, got"):
            RobustMemorizer(model, x, y, delta)
    with pytest.raises(TypeError, match="delta must be a number, got str"):
        RobustMemorizer(model, x, y, "0.1")
    with pytest.raises(ValueError, match="norm must be linf or l2, got 'l1'"):
        RobustMemorizer(model, x, y, 0.1, "l1")
    with pytest.raises(TypeError, match=r"x must be float32 or float64, got torch.int64"):
        RobustMemorizer(model, x.long(), y, 0.1)
    with pytest.raises(TypeError, match=r"y must be int64, got torch.float32"):
        RobustMemorizer(model, x, y.float(), 0.1)
    with pytest.raises(ValueError, match=r"needs x \[N, ...\] with N >= 1 and y \[N\], got \(3, 2\) and \(2,\)"):
        RobustMemorizer(model, x, y[:2], 0.1)
    with pytest.raises(ValueError, match="x must be finite"):
        RobustMemorizer(model, x / 0, y, 0.1)
    with pytest.raises(ValueError, match=r"model must return logits \[B, C\] or \[B, 1\], got shape \(3,\)"):
        RobustMemorizer(nn.Flatten(0), x[:, 0:1], y, 0.01)
    with pytest.raises(ValueError, match=r"inputs of 2 numbers each, got shape \(3, 3\)"):
        RobustMemorizer(model, x, y, 0.1).class_bumps(torch.rand(3, 3))
