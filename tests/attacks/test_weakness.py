"""What makes an attack weak without failing is said, once for a line of code, with the remedy."""

import functools
import inspect
import math
import types
import warnings

import pytest
import torch
from steep import Steep
from torch import nn

import fastat
from fastat import WeakAttackWarning
from fastat.attacks import weakness
from fastat.evaluation import evaluate


def network(*layers, classes=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), *layers, nn.Linear(16, classes)).eval()


def batch(n=9):
    """Images, and the classes that the network predicts for them."""
    x = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(3))
    return x, network()(x).argmax(1)


def attacks():
    yield "fgsm", lambda model, x, y, **k: fastat.fgsm(model, x, y, k.pop("eps", 0.1), **k)
    yield "pgd", lambda model, x, y, **k: fastat.pgd(model, x, y, k.pop("eps", 0.1), steps=3, seed=0, **k)
    yield "restarts", lambda model, x, y, **k: fastat.pgd(model, x, y, k.pop("eps", 0.1), steps=2, restarts=2, **k)
    yield (
        "early stop",
        lambda model, x, y, **k: fastat.pgd(model, x, y, k.pop("eps", 0.1), steps=3, early_stop=True, **k),
    )


every = pytest.mark.parametrize("attack", [attack for _, attack in attacks()], ids=[name for name, _ in attacks()])


@pytest.fixture
def quiet():
    """No warning at all is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeakAttackWarning)
        yield


@every
def test_a_sound_attack_is_silent(attack, quiet):
    x, y = batch()
    attack(network(), x, y)
    attack(network(), x, y, norm="l2", eps=1.0)
    attack(network(), x, y, bounds=None, eps=8.0, step_size=0.1)


@every
def test_probabilities(attack):
    x, y = batch()
    with pytest.warns(WeakAttackWarning, match=r"outputs look like probabilities.*Attack the model without it"):
        attack(nn.Sequential(network(), nn.Softmax(1)), x, y)
    with pytest.warns(WeakAttackWarning, match="outputs look like probabilities"):
        attack(nn.Sequential(network(classes=1), nn.Sigmoid()), x, torch.arange(9) % 2)


def test_sigmoids_and_what_only_looks_like_them(quiet):
    x, y = batch()
    few = nn.Sequential(nn.Flatten(), nn.Linear(12, 1))
    few[1].weight.data.mul_(0.01), few[1].bias.data.fill_(0.9)
    fastat.pgd(few, x[:3], y[:3] % 2, 0.1, steps=1)  # three logits may be between 0 and 1 by chance
    with pytest.raises(WeakAttackWarning, match="look like probabilities"):
        fastat.pgd(nn.Sequential(network(), nn.Sigmoid()), x, (y[:, None] == torch.arange(4)).float(), 0.1, loss="bce")


def test_probabilities_are_welcome_where_the_loss_is_ones_own(quiet):
    x, y = batch()
    model = nn.Sequential(network(), nn.Softmax(1))
    fastat.pgd(model, x, y, 0.1, steps=2, loss=lambda p, y: -p.gather(1, y[:, None])[:, 0].log())
    fastat.pgd(nn.Sequential(network(), nn.LogSoftmax(1)), x, y, 0.1, steps=2)


class Flat(nn.Module):
    """No gradient for the first samples, and none that is finite for those after them."""

    def __init__(self, zero, nan):
        super().__init__()
        self.inner, self.zero, self.nan = network(), zero, nan

    def forward(self, x):
        scale = torch.ones(len(x), 1)
        scale[: self.zero], scale[self.zero : self.zero + self.nan] = 0, math.nan
        y = self.inner(x)
        return (
            y.detach()
            + (y - y.detach()) * scale.nan_to_num(1.0)
            + torch.zeros_like(y).masked_scatter(
                scale.isnan().expand_as(y), ((y - y.detach()) * 0)[scale.isnan().expand_as(y)].sqrt()
            )
        )


def _line():
    return inspect.currentframe().f_back.f_lineno


@pytest.mark.parametrize(("zero", "nan", "count"), [(2, 0, 2), (0, 3, 3), (2, 1, 3), (9, 0, 9)])
@pytest.mark.parametrize("attack", [attack for name, attack in attacks() if name != "early stop"])
def test_samples_without_a_gradient_are_counted(attack, zero, nan, count):
    x, y = batch()
    with pytest.warns(WeakAttackWarning, match=rf"without a gradient: for {count} of 9 .*model.double\(\)"):
        attack(Flat(zero, nan), x, y)


def test_samples_that_are_won_need_no_gradient():
    x, y = batch()
    model = Flat(9, 0)
    y = model(x).argmax(1)
    y[:4] = (y[:4] + 1) % 4
    with pytest.warns(WeakAttackWarning, match="for 5 of 9"):
        fastat.pgd(model, x, y, 0.1, steps=2, seed=0, random_start=False, early_stop=True)


def test_a_sample_that_another_start_gives_a_gradient_is_not_counted(quiet):
    class Dead(nn.Module):  # one sample of the first restart starts where a rectifier is off
        def forward(self, z):
            return torch.stack([(z - 0.5).relu().sum(1), torch.zeros(len(z))], 1)

    x, y = torch.full((1, 1), 0.5), torch.tensor([0])
    starts = [fastat.random_start(x, 0.1, "linf", seed, draw=d).item() for seed in range(40) for d in (0, 1)]
    seed = next(s for s in range(40) if starts[2 * s] < 0.5 < starts[2 * s + 1])
    fastat.pgd(Dead(), x, y, 0.1, steps=1, restarts=2, seed=seed)
    with pytest.raises(WeakAttackWarning, match="for 1 of 1"):
        fastat.pgd(Dead(), x, y, 0.1, steps=1, seed=seed)


@pytest.mark.parametrize(
    ("norm", "eps", "bounds"),
    [("linf", 8.0, (0, 1)), ("l2", 4.0, (0, 1)), ("l1", 13.0, (0, 1)), ("linf", 3.0, (-1, 1))],
)
@every
def test_a_radius_larger_than_the_box(attack, norm, eps, bounds):
    x, y = batch()
    with pytest.warns(WeakAttackWarning, match=r"eps is larger than the box.*eps=8/255"):
        attack(network(), x, y, eps=eps, norm=norm, bounds=bounds)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeakAttackWarning)
        attack(
            network(),
            x,
            y,
            eps=0.8 * {"linf": bounds[1] - bounds[0], "l2": 12**0.5, "l1": 12}[norm],
            norm=norm,
            bounds=bounds,
        )


def test_a_radius_in_a_tensor_and_a_box_of_tensors():
    x, y = batch()
    for eps, bounds in ((torch.full((9,), 8.0), (0, 1)), (1.5, (torch.zeros(3, 1, 1), torch.ones(3, 1, 1)))):
        with pytest.warns(WeakAttackWarning, match="eps is larger than the box"):
            fastat.pgd(network(), x, y, eps, steps=1, bounds=bounds)


def test_training_attacks_say_it_too():
    x, y = batch()
    with pytest.warns(WeakAttackWarning, match="eps is larger than the box"):
        fastat.protocol("pgd-at", eps=8, steps=1)(network().train(), x, y)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm1d(16), "batch norm normalizes by the batch"),
        (nn.Dropout(0.5), "dropout draws at random"),
        (nn.Sequential(nn.BatchNorm1d(16), nn.AlphaDropout(0.1)), "batch norm and dropout"),
    ],
)
def test_train_mode(layer, words):
    model, (x, y) = network(layer).train(), batch()
    for attacked in (model, lambda z: model(z)):
        with pytest.warns(WeakAttackWarning, match=rf"in train mode: {words}.*model.eval\(\).*training=True"):
            fastat.pgd(attacked, x, y, 0.1, steps=1)


def test_train_mode_is_right_in_training_and_where_it_changes_nothing(quiet):
    x, y = batch()
    model = network(nn.BatchNorm1d(16), nn.Dropout(0.5)).train()
    fastat.pgd(model, x, y, 0.1, steps=1, training=True)
    fastat.protocol("trades", eps=0.1, steps=1)(model, x, y)
    fastat.pgd(network(nn.Dropout(0.0)).train(), x, y, 0.1, steps=1)
    fastat.pgd(model.eval(), x, y, 0.1, steps=1)


def test_once_for_a_line_however_the_numbers_differ():
    x, y = batch()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for count in (1, 2, 3):
            fastat.pgd(Flat(count, 0), x, y, 0.1, steps=1)
        assert len(caught) == 1 and "for 1 of 9" in str(caught[0].message)
        fastat.pgd(Flat(4, 0), x, y, 0.1, steps=1)  # another line
        fastat.pgd(Flat(0, 0), x, y, 8.0, steps=1)  # and another kind
    assert [str(w.message).split(":")[0] for w in caught] == [
        "samples without a gradient",
        "samples without a gradient",
        "eps is larger than the box",
    ]
    assert {w.filename for w in caught} == {__file__}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            fastat.pgd(Flat(1, 0), x, y, 0.1, steps=1)
    assert len(caught) == 3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore", WeakAttackWarning)
        fastat.pgd(Flat(1, 0), x, y, 8.0, steps=1)
    assert not caught


def test_nothing_is_looked_at_without_validation(quiet):
    x, y = batch()
    fastat.pgd(nn.Sequential(Flat(9, 0), nn.Softmax(1)), x, y, 0.1, steps=1, validate=False)


def test_where_a_look_would_wait_the_next_call_says_it(monkeypatch):
    """As on CUDA."""
    monkeypatch.setattr(weakness, "_waits", lambda t: True)
    x, _ = batch()
    sound = network()
    y = sound(x).argmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeakAttackWarning)
        fastat.pgd(lambda z: Flat(2, 0)(z), x, y, 0.1, steps=1)
        fastat.pgd(sound, x, y, 0.1, steps=1, validate=False)
    line = _line() - 2
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fastat.fgsm(sound, x, y, 0.1)
        fastat.fgsm(sound, x, y, 0.1)
    assert [(str(w.message)[:36], w.lineno, w.filename) for w in caught] == [
        ("samples without a gradient: for 2 of", line, __file__)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeakAttackWarning)
        fastat.pgd(Flat(1, 0), x, y, 0.1, steps=1)
    with pytest.warns(WeakAttackWarning, match="for 1 of 9"):
        weakness.tell_all()
    with pytest.warns(WeakAttackWarning, match="of 9"):
        evaluate(Flat(1, 0), x, y, 0.1, attacks=("pgd-2",))


def test_recordings_are_watched_too(recorder):
    x, y = batch()
    model = nn.Sequential(network(), nn.Softmax(1))
    for _ in range(2):
        with pytest.warns(WeakAttackWarning, match="probabilities"):
            fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    assert recorder.made == 1


class Noisy(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.inner, self.size = network(), size

    def forward(self, x):
        return self.inner(x + self.size * torch.randn_like(x))


def test_evaluation_sees_randomness():
    x, y = batch()
    with pytest.warns(WeakAttackWarning, match=r"the model is random: two passes.*mean\(0\)"):
        evaluate(Noisy(0.3), x, y, 0.1, attacks=("fgsm",))
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeakAttackWarning)
        evaluate(Noisy(0.0), x, y, 0.1, attacks=("fgsm",))


def test_evaluation_compares_one_step_with_several():
    class Masked(nn.Module):  # its gradient points the wrong way close to x, where several small steps stay
        def forward(self, z):
            score = 10 * (z.flatten(1).mean(1) - 0.5)
            wrong = (score.detach().abs() < 2.0) & (score.detach().abs() > 0.01)
            score = torch.where(wrong, 2 * score.detach() - score, score)
            return torch.stack([-score, score], 1)

    values = torch.tensor([0.71, 0.72, 0.29, 0.28]).repeat(3)
    x, y = values.view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), torch.tensor([1, 1, 0, 0]).repeat(3)
    several = functools.partial(fastat.pgd, steps=40)
    for attacks in (("fgsm", "pgd-40"), (fastat.fgsm, several)):
        with pytest.warns(WeakAttackWarning, match=r"several steps find less than a single one: 12 of 12 are robust"):
            evaluate(Masked(), x, y, 0.25, attacks=attacks)
    with warnings.catch_warnings():
        warnings.simplefilter("error", WeakAttackWarning)
        evaluate(Masked(), x, y, 0.25, attacks=("fgsm",))
        evaluate(Masked(), x[:4], y[:4], 0.25, attacks=("fgsm", "pgd-40"))  # four images may be chance


def test_infinite_gradients_move_and_are_not_counted(quiet):
    x, y = batch()
    model = network()
    found = fastat.pgd(lambda z: model(Steep.apply(z, math.inf)), x, y, 0.1, steps=1, random_start=False)
    assert ((found - x).abs() > 0).any()


def test_samples_that_are_wrong_or_masked_or_do_not_count_are_not_accused(quiet):
    x, y = batch()
    model = Flat(9, 0)
    fastat.pgd(model, x, (model(x).argmax(1) + 1) % 4, 0.1, steps=2, seed=0, random_start=False)
    mask = (torch.arange(9) > 3).view(9, 1, 1, 1)
    fastat.pgd(network(), x, y, 0.1, steps=2, mask=mask)
    dense = nn.Conv2d(3, 4, 1)
    labels = torch.zeros(9, 2, 2, dtype=torch.int64).index_fill_(0, torch.tensor([2, 5]), -100)
    fastat.pgd(dense, x, labels, 0.1, steps=2)


def test_a_random_gradient_that_comes_later_is_not_accused(quiet):
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.calls = network(), 0

        def forward(self, z):
            self.calls += 1
            return self.inner(z) if self.calls > 1 else self.inner(z.detach()) + 0 * self.inner(z)

    x, y = batch()
    fastat.pgd(Late(), x, y, 0.1, steps=2, seed=0)


def test_drawing_layers_are_right_where_gradients_are_averaged(quiet):
    x, y = batch()
    fastat.pgd(network(nn.Dropout(0.3)).train(), x, y, 0.1, steps=1, samples=3)


class DropPath(nn.Module):  # as timm calls it
    drop_prob = 0.2

    def forward(self, x):
        return x


def test_stochastic_depth_is_known_by_name():
    x, y = batch()
    with pytest.warns(WeakAttackWarning, match="dropout draws at random"):
        fastat.pgd(network(DropPath()).train(), x, y, 0.1, steps=1)


class Holder:
    def __init__(self, model):
        self.models = [model]

    def __call__(self, z):
        return self.models[0](z)


def test_what_is_in_sight_and_does_not_run_changes_nothing(quiet):
    """A network that a function's surroundings hold, in train mode, beside the one that it calls."""
    student, model, (x, y) = network(nn.BatchNorm1d(16)).train(), network(nn.BatchNorm1d(16)), batch()
    holder = types.SimpleNamespace(student=student, ema=model)
    for attacked in (lambda z: holder.ema(z), functools.partial(lambda z, nets: nets[1](z), nets=[student, model])):
        for options in ({}, {"early_stop": True}):
            found = fastat.pgd(attacked, x, y, 0.1, steps=3, seed=0, **options)
            assert torch.equal(found, fastat.pgd(model, x, y, 0.1, steps=3, seed=0, **options))


def test_dropout_of_recurrent_layers_and_attention():
    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 8, num_layers=2, dropout=0.3, batch_first=True), nn.Linear(8, 4)

        def forward(self, z):
            return self.out(self.lstm(z)[0][:, -1])

    with pytest.warns(WeakAttackWarning, match="dropout draws at random"):
        fastat.pgd(Sequence().train(), torch.rand(2, 5, 3), torch.tensor([0, 1]), 0.1, steps=1)


@pytest.mark.parametrize(
    "reach",
    [
        lambda m: (lambda models: lambda z: models[0](z))([m]),
        lambda m: (lambda inner: lambda z: inner(z))(lambda z: m(z)),
        Holder,
        lambda m: functools.partial(lambda z, net: net(z), net=m),
        lambda m: lambda z, net=m: net(z),
        lambda m: functools.partial(m.forward),
        lambda m: (lambda kept: lambda z: kept["a"]["b"](z))({"a": {"b": m}}),
        lambda m: (lambda e: lambda z: e.net(z))(type("E", (), {"net": staticmethod(m)})),
    ],
)
def test_batch_norm_is_seen_wherever_a_function_has_its_network(reach):
    model, (x, y) = network(nn.BatchNorm1d(16)).train(), batch()
    function = reach(model)
    with pytest.warns(WeakAttackWarning, match="in train mode"):
        found = fastat.pgd(function, x, y, 0.1, steps=3, seed=0)
    assert torch.equal(found, fastat.pgd(model, x, y, 0.1, steps=3, seed=0, training=True))
    with pytest.raises(ValueError, match="early_stop changes the batch"):
        fastat.pgd(function, x, y, 0.1, early_stop=True, training=True)


def test_a_radius_is_compared_entry_by_entry():
    x, y = batch()
    wide = torch.ones(3, 2, 2)
    wide[0, 0, 0] = 1000
    with pytest.warns(WeakAttackWarning, match="eps is larger than the box"):
        fastat.pgd(network(), x, y, 8.0, steps=1, bounds=(torch.zeros(3, 2, 2), wide))
    with pytest.warns(WeakAttackWarning, match="within 3.46.* in l2"):
        fastat.pgd(network(), x, y, 4.0, norm="l2", steps=1, bounds=(torch.zeros(3, 2, 2), torch.ones(3, 2, 2)))


def test_two_lines_of_evaluation_say_it_twice():
    x, y = batch()
    model = Noisy(0.3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        evaluate(model, x, y, 0.1, attacks=("fgsm",))
        evaluate(model, x, y, 0.1, attacks=("fgsm",))
    lines = [w.lineno for w in caught if "random" in str(w.message)]
    assert len(lines) == 2 and {w.filename for w in caught} == {__file__}
