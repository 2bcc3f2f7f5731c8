"""evaluate() takes the data, the models and the attacks that users have."""

import functools
import sys
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import fastat
from fastat.data import Split, make_dataset


def network(classes=3, dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes)).to(dtype).eval()


def images(n=30):
    g = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 1, 8, 8, generator=g) * 255).round() / 255
    y = network()(x).argmax(1)
    y[::7] = (y[::7] + 1) % 3  # some are wrong without any attack
    return x, y


class Own(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.zeros(1, 8, 8), 0


KINDS = {
    "pair": lambda x, y: (x, y),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "odd arrays": lambda x, y: (x.flip(0).numpy()[::-1].astype(">f4"), y.numpy().astype(">i8")),
    "labels in a list": lambda x, y: (x, y.tolist()),
    "empty batches": lambda x, y: [(x[:0], y[:0]), (x[:20], y[:20]), (x[20:], y[20:])],
    "bytes": lambda x, y: ((x * 255).round().to(torch.uint8), y.to(torch.int32)),
    "dataset": Own,
    "tensor dataset": TensorDataset,
    "list of samples": lambda x, y: [(one, int(label)) for one, label in zip(x, y, strict=True)],
    "loader": lambda x, y: DataLoader(Own(x, y), batch_size=7),
    "generator": lambda x, y: ((a, b) for a, b in zip(x.split(11), y.split(11), strict=True)),
    "list of batches": lambda x, y: list(zip(x.split(11), y.split(11), strict=True)),
    "two batches": lambda x, y: list(zip(x.split(15), y.split(15), strict=True)),
    "ours": lambda x, y: make_dataset("ours", (x * 255).round().to(torch.uint8), y, ("a", "b", "c")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_gives_the_same(kind):
    x, y = images()
    attacks = ("fgsm", "pgd-4x2")
    expected = fastat.evaluate(network(), x, y, 0.04, attacks=attacks)
    found = fastat.evaluate(network(), KINDS[kind](x, y), 0.04, attacks=attacks, batch_size=9)
    for name, right in expected.correct.items():
        assert torch.equal(found.correct[name], right), name
    assert 0 < expected.accuracy["pgd-4x2"] < expected.accuracy["clean"] < 1


def test_both_ways_to_call_it():
    x, y = images()
    model = network()
    ways = [
        fastat.evaluate(model, (x, y), 0.5, "l2", attacks=("pgd-3",)),
        fastat.evaluate(model, x, y, 0.5, "l2", attacks=("pgd-3",)),
        fastat.evaluate(model, x, y.tolist(), 0.5, "l2", attacks=("pgd-3",)),
        fastat.evaluate(model, x, y, eps=0.5, norm="l2", attacks=("pgd-3",)),
        fastat.evaluate(model, data=(x, y), eps=0.5, norm="l2", attacks=("pgd-3",)),
        fastat.evaluate(model, (x, y), np.float64(0.5), "l2", attacks=("pgd-3",)),
    ]
    assert len({tuple(way.correct["pgd-3"].tolist()) for way in ways}) == 1
    assert {(way.norm, way.eps) for way in ways} == {("l2", 0.5)}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (lambda x, y: "mnist", TypeError, r"data must be a DataLoader or.*got str \(fastat.data.load\(name\).test"),
        (lambda x, y: {"x": x}, TypeError, "data must be a DataLoader or.*got dict"),
        (lambda x, y: x, TypeError, "data must be a DataLoader or.*got Tensor"),
        (lambda x, y: 3, TypeError, "data must be a DataLoader or.*got int"),
        (lambda x, y: None, TypeError, "got NoneType"),
        (lambda x, y: Split(KINDS["ours"](x, y), KINDS["ours"](x, y)), TypeError, "got a Split: pass its .test"),
        (lambda x, y: DataLoader(x), TypeError, r"must give pairs \(x, y\), got a Tensor: pick them out"),
        (lambda x, y: Endless(), TypeError, r"got an IterableDataset: pass DataLoader\(data, 250\)"),
        (lambda x, y: TensorDataset(x, y, y), TypeError, "must give pairs.*tuple of 3"),
        (lambda x, y: (x, y + 1), ValueError, r"labels must be in \[0, 3\), the classes of the model, got 1..3"),
        (lambda x, y: (x, y - 1), ValueError, r"labels must be in \[0, 3\).* got -1..1"),
        (lambda x, y: (x, y[:, None]), ValueError, r"got x \(30, 1, 8, 8\) and labels \(30, 1\): y.flatten\(\)"),
        (lambda x, y: iter([{"image": x}]), TypeError, "must give pairs.*got a dict"),
        (lambda x, y: iter([(x, y, y)]), TypeError, "must give pairs.*got a tuple of 3"),
        (lambda x, y: iter([]), ValueError, "needs at least one image"),
        (lambda x, y: (x, y.float()), TypeError, "y must be integers, a class for each sample, got torch.float32"),
        (lambda x, y: (x.long(), y), TypeError, "x must be floating-point, or uint8"),
        (lambda x, y: (x, F.one_hot(y)), ValueError, r"one label each, got .*: y.argmax\(1\)"),
        (lambda x, y: (2 * x, y), ValueError, "outside the bounds"),
    ],
)
def test_other_data_are_refused(data, error, message):
    with pytest.raises(error, match=message):
        fastat.evaluate(network(), data(*images()), 0.1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, x, y: fastat.evaluate(m, (x, y)), TypeError, "evaluate needs eps, the radius"),
        (lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, ""), ValueError, "norm must be one of"),
        (lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, batch_size=2.5), ValueError, "batch_size must be an integer"),
        (lambda m, x, y: fastat.evaluate(m, ((255 * x).byte(), y), 25, bounds=(0, 255)), ValueError, "x of uint8 is"),
        (
            lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, attacks={"worst case": "fgsm"}),
            ValueError,
            "'worst case' twice",
        ),
        (
            lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, attacks=[lambda x, y: x]),
            TypeError,
            r"is called as \(model, x, y\), which it does not take: .*lambda model, x, y: attack\(x, y\)",
        ),
        (lambda m, x, y: fastat.evaluate(m, (x, y), -0.1), ValueError, "eps must be a finite number >= 0"),
        (lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, "l3"), ValueError, "norm must be one of"),
        (lambda m, x, y: fastat.evaluate(m, x, y, 0.1, eps=0.2), TypeError, "eps or norm twice"),
        (lambda m, x, y: fastat.evaluate(m, x, y, 0.1, "l2", 3), TypeError, r"takes \(model, data, eps, norm\) or"),
        (lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, attacks="fgsm"), TypeError, "attacks must be a list"),
        (lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, attacks=[3]), TypeError, "names or functions"),
        (lambda m, x, y: fastat.evaluate(m, (x, y), 0.1, attacks=["fgsm", "fgsm"]), ValueError, "'fgsm' twice"),
        (lambda m, x, y: fastat.evaluate(nn.Conv2d(1, 2, 1), (x, y), 0.1), ValueError, r"logits \[30, C\] of classes"),
        (lambda m, x, y: fastat.evaluate(lambda z: (z, z), (x, y), 0.1), TypeError, r"lambda x: model\(x\)\[0\]"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call(network(), *images())


def away(model, x, y):
    """One step of the margin's gradient."""
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(fastat.attack_loss(model(leaf), y, "margin")[0].sum(), leaf)
    return (x + 0.04 * grad.sign()).clamp(0, 1)


def test_attacks_of_ones_own():
    x, y = images()
    model = network()
    calls = []

    def keyed(model, x, y, *, eps, norm, bounds, seed, sample_ids):
        calls.append((eps, norm, bounds, seed, sample_ids.tolist()))
        return x

    class Settings:
        def __init__(self, steps):
            self.steps = steps

        def __call__(self, model, x, y):
            return fastat.pgd(model, x, y, 0.04, steps=self.steps, seed=5)

    attacks = [away, keyed, functools.partial(fastat.pgd, steps=4, loss="margin"), Settings(3), "pgd-4"]
    found = fastat.evaluate(model, (x, y), 0.04, attacks=attacks, batch_size=20, seed=9)
    assert list(found.correct) == ["clean", "away", "keyed", "pgd(steps=4, loss=margin)", "Settings", "pgd-4"]
    right = (model(x).argmax(1) == y).nonzero()[:, 0]
    assert torch.equal(found.correct["away"][right], model(away(model, x[right], y[right])).argmax(1) == y[right])
    assert torch.equal(found.correct["keyed"], found.correct["clean"])
    assert [call[:4] for call in calls] == [(0.04, "linf", (0.0, 1.0), 9)] * 2
    assert [i for call in calls for i in call[4]] == right.tolist()
    margin = fastat.pgd(model, x[right], y[right], 0.04, steps=4, loss="margin", seed=9, sample_ids=right)
    assert torch.equal(found.correct["pgd(steps=4, loss=margin)"][right], model(margin).argmax(1) == y[right])
    named = fastat.evaluate(model, (x, y), 0.04, attacks={"mine": away, "theirs": "fgsm"})
    assert list(named.correct) == ["clean", "mine", "theirs"]


def test_the_worst_case_withstands_every_attack():
    x, y = images()
    found = fastat.evaluate(network(), (x, y), 0.03, attacks=("fgsm", "pgd-3"))
    robust = found.correct["clean"] & found.correct["fgsm"] & found.correct["pgd-3"]
    assert torch.equal(found.robust, robust) and found.worst_case == float(robust.double().mean())
    assert found.interval("worst case") == fastat.evaluation.wilson_interval(found.worst_case, 30)
    lines = str(found).splitlines()
    assert lines[0] == "30 images, linf, eps 0.03" and len(lines) == 5 and lines[4].split()[:2] == ["worst", "case"]
    assert f"{found.accuracy['pgd-3']:.2%}" in lines[3]


def test_examples_on_request():
    x, y = images()
    model = network()
    found = fastat.evaluate(model, (x, y), 0.04, attacks=("fgsm", "pgd-3"), batch_size=8, examples=True)
    assert fastat.evaluate(model, (x, y), 0.04, attacks=("fgsm",)).examples == {}
    for name, x_adv in found.examples.items():
        assert x_adv.shape == x.shape and ((x_adv - x).abs() <= 0.04 + 1e-6).all()
        assert torch.equal(model(x_adv).argmax(1) == y, found.correct[name])
        assert torch.equal(x_adv[~found.correct["clean"]], x[~found.correct["clean"]])


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda m, x, y: x + 0.2, r"attack 'wrong' left the ball: 0.2 away in linf, with eps 0.1"),
        (lambda m, x, y: x - 0.05, r"attack 'wrong' left the box: values in \[-0.05"),
        (lambda m, x, y: x[:1], r"must return a tensor like x, \[\d+, 1, 8, 8\] on cpu, got \[1, 1, 8, 8\]"),
        (lambda m, x, y: (x, y), "must return a tensor like x.*got tuple"),
        (lambda m, x, y: x * float("nan"), "left the ball: nan away"),
    ],
)
def test_results_outside_the_threat_model_are_refused(attack, message):
    with pytest.raises(ValueError, match=message):
        fastat.evaluate(network(), images(), 0.1, attacks={"wrong": attack})


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_ball_is_that_of_the_norm(norm):
    far = {"l2": 0.9, "l1": 7.0}[norm]
    within = lambda m, x, y: fastat.pgd(m, x, y, far, norm=norm, steps=2)  # noqa: E731
    fastat.evaluate(network(), images(), far, norm, attacks=[within])
    with pytest.raises(ValueError, match=rf"left the ball: .* in {norm}"):
        fastat.evaluate(network(), images(), 0.9 * far, norm, attacks=[within])


def test_any_callable_is_a_model():
    x, y = images()
    model = network()
    expected = fastat.evaluate(model, (x, y), 0.04, attacks=("pgd-3",)).accuracy
    hf = lambda z: types.SimpleNamespace(logits=model(z))  # noqa: E731
    for other in (lambda z: model(z), functools.partial(model.__call__), hf, lambda z: {"logits": model(z)}):
        assert fastat.evaluate(other, (x, y), 0.04, attacks=("pgd-3",)).accuracy == expected


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint16, torch.complex64, torch.float8_e4m3fn])
def test_logits_that_have_no_order(dtype):
    with pytest.raises(TypeError, match=f"the model must return logits that can be compared.*got {dtype}"):
        fastat.evaluate(lambda x: torch.zeros(len(x), 3, dtype=dtype), images(), 0.1)


def test_normalized_data():
    x, y = images()
    mean, std = 0.3, 0.5
    inner = network()
    model = nn.Sequential(fastat.Normalized(nn.Identity(), -mean / std, 1 / std), inner)
    own = functools.partial(fastat.pgd, steps=3)
    found = fastat.evaluate(
        model, ((x - mean) / std, y), 0.04, attacks=["pgd-3", own], normalization=(mean, std), examples=True
    )
    pixels = found.examples["pgd-3"] * std + mean
    assert (pixels - x).abs().max() <= 0.04 + 1e-5 and pixels.min() >= -1e-5
    with pytest.raises(ValueError, match=r"looks normalized.*normalization=\(mean, std\)"):
        fastat.evaluate(model, ((x - mean) / std, y), 0.04)


@pytest.mark.parametrize("temperature", [1.0, 20.0, 100.0])
def test_probabilities_are_attacked_as_their_logits_are(temperature):
    """Softmaxed and stretched, as by distillation: within two points of the margin attack, for each attack by name."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 5)).double().eval()
    x = torch.rand(200, 1, 8, 8, dtype=torch.float64)
    y = inner(x).argmax(1)
    stretched = lambda z: temperature * inner(z)  # noqa: E731
    softmaxed = lambda z: stretched(z).softmax(1)  # noqa: E731
    attacks = ("fgsm", "pgd-20")
    logits = fastat.evaluate(stretched, (x, y), 0.015, attacks=attacks).accuracy
    with pytest.warns(fastat.WeakAttackWarning, match="probabilities: .* Attacked is their logarithm"):
        found = fastat.evaluate(softmaxed, (x, y), 0.015, attacks=attacks).accuracy
    x_adv = fastat.pgd(stretched, x, y, 0.015, steps=20, loss="margin", seed=0)
    margin = float((stretched(x_adv).argmax(1) == y).double().mean())
    assert 0.1 < margin < 0.95
    assert found["pgd-20"] <= margin + 0.02
    assert abs(found["fgsm"] - logits["fgsm"]) <= 0.02 and abs(found["pgd-20"] - logits["pgd-20"]) <= 0.02


def test_functions_of_ones_own_get_logits_too():
    x, y = images()
    model = nn.Sequential(network(), nn.Softmax(1))
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fastat.evaluate(model, (x, y), 0.1, attacks={"own": lambda m, x, y: seen.append(m(x)) or x})
    right = model(x).argmax(1) == y
    torch.testing.assert_close(seen[0].softmax(1), model(x[right]))
    seen.clear()
    fastat.evaluate(network(), (x, y), 0.1, attacks={"own": lambda m, x, y: seen.append(m) or x})
    assert isinstance(seen[0], nn.Sequential)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_single_numbers_in_0_1_are_warned_of_and_taken_as_they_are(order):
    torch.manual_seed(0)
    linear = nn.Linear(12, 1)
    x = torch.rand(200, 12)
    linear.bias.data -= linear(x).median() + 1e-4
    x = x[linear(x)[:, 0].argsort(descending=True)] if order == "sorted" else x
    logit = lambda z: 0.9 * torch.tanh(linear(z))  # noqa: E731
    y = (logit(x)[:, 0] > 0).long()
    assert (logit(x)[:32] > 0).all() == (order == "sorted") and 0 < y.sum() < 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastat.evaluate(logit, (x, y), 0.01, attacks=["fgsm"], batch_size=32).accuracy["clean"] == 1
    sigmoid = lambda z: torch.sigmoid(linear(z))  # noqa: E731
    with pytest.warns(fastat.WeakAttackWarning, match=r"one number for each of 200 .*model\(x\).logit\(\)"):
        fastat.evaluate(sigmoid, (x, y), 0.01, attacks=["fgsm"], batch_size=7)
    found = fastat.evaluate(lambda z: sigmoid(z).logit(), (x, y), 0.01, attacks=["fgsm"])
    assert found.accuracy["clean"] == 1


def test_attacks_cannot_hide_behind_what_they_change():
    x, y = images()
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    y = model(x).argmax(1)

    def in_place(model, x, y):
        x += 0.5 * torch.randn_like(x).sign()
        y.zero_()
        return x.clamp_(0, 1)

    with pytest.raises(ValueError, match=r"'in_place' left the ball: 0.5"):
        fastat.evaluate(model, (x, y), 0.01, attacks=[in_place])
    assert torch.equal(x, images()[0])

    def messy(model, x, y):
        model.train()
        x.requires_grad_()
        F.cross_entropy(model(x), y).backward()
        return x.detach().double()

    with torch.no_grad():
        found = fastat.evaluate(model, (x, y), 0.1, attacks=[messy, "fgsm"], batch_size=9)
    assert found.accuracy["messy"] == found.accuracy["clean"] == 1
    assert not any(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


@pytest.mark.parametrize(("dtype", "norm", "eps", "far"), [
    (torch.float16, "l1", 1.0, 3.0), (torch.float16, "l2", 0.5, 0.6), (torch.bfloat16, "linf", 8 / 255, 12 / 255),
    (torch.float32, "l1", 0.01, 0.02),
])  # fmt: skip
def test_rounding_excuses_no_more_than_rounding(dtype, norm, eps, far):
    x, y = images()
    x = x.to(dtype)
    model = lambda z: network()(z.float())  # noqa: E731

    def beyond(model, x, y):
        out = x.clone()
        entries = {"linf": 64, "l2": 1, "l1": 4}[norm]
        flat = out.flatten(1)
        flat[:, :entries] += torch.where(flat[:, :entries] > 0.5, -1, 1) * far / (entries if norm == "l1" else 1)
        return out

    with pytest.raises(ValueError, match="left the ball"):
        fastat.evaluate(model, (x, y), eps, norm, attacks=[beyond])
    inside = functools.partial(fastat.pgd, steps=3)
    fastat.evaluate(model, (x, y), eps, norm, attacks=[inside])


def test_functions_are_evaluated_in_eval_mode():
    x, y = images()
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 3)).train()
    before = net[1].running_mean.clone()
    expected = fastat.evaluate(net, (x, y), 0.02, attacks=["pgd-3"])
    found = fastat.evaluate(lambda z: net(z), (x, y), 0.02, attacks=["pgd-3"])
    assert found.accuracy == expected.accuracy and net.training and torch.equal(net[1].running_mean, before)


def test_nan_is_said():
    x, y = images()
    with pytest.warns(fastat.WeakAttackWarning, match="the model returns NaN: for 30 of 30"):
        fastat.evaluate(lambda z: network()(z) * torch.nan, (x, y * 0), 0.1, attacks=["fgsm"])


def test_one_masked_class_does_not_hide_randomness():
    x, y = images()
    net = network()
    masked = lambda z: net(z + 0.05 * torch.randn_like(z)) + torch.tensor([0.0, 0.0, -1e6])  # noqa: E731
    with pytest.warns(fastat.WeakAttackWarning, match="the model is random"):
        fastat.evaluate(masked, (x, y.clamp(max=1)), 0.01, attacks=["fgsm"])


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    x, y = images()
    fastat.evaluate(network(), (x, y), 0.1, attacks=("fgsm",))
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fastat.evaluate(network(), (x, y), 0.1, attacks=("fgsm",), progress=False)
    assert capsys.readouterr() == ("", "")
    fastat.evaluate(network(), KINDS["generator"](x, y), 0.1, attacks=("fgsm",))
    assert capsys.readouterr().out == ""


def test_data_go_where_the_model_is():
    x, y = images(4)
    seen = []

    class Meta(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, z):
            seen.append(z.device)
            return z.flatten(1)[:, :3]

    fastat.evaluate(Meta(), (x, y), 0.1, attacks=("fgsm",))
    assert set(map(str, seen)) == {"cpu"}
    with pytest.raises((RuntimeError, NotImplementedError, ValueError)):
        fastat.evaluate(Meta(), (x, y), 0.1, attacks=("fgsm",), device="meta")
