"""``fastat.train``: what is refused, with which words, and which runs a folder does not go on with."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from killing import metrics
from own_cases import Drawn, network, samples, short
from torch import nn

import fastat


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"momentun": 0.9}, TypeError, r"train has no option 'momentun', .*did you mean 'momentum'\?"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1, got 0"),
        ({"lr": -1.0}, ValueError, "lr must be a finite number above 0, got -1.0"),
        ({"optimizer": "sdg"}, ValueError, "optimizer must be one of sgd, adam, adamw, got 'sdg'"),
        ({"schedule": "cos"}, ValueError, "schedule must be one of cyclic, cosine, multistep, one-cycle, constant"),
        ({"optimizer": torch.optim.SGD(network().parameters(), 0.1)}, TypeError, "optimizer must be a name or a funct"),
        ({"optimizer": lambda p: 3}, ValueError, "from parameters to a torch.optim.Optimizer .*returned int"),
        ({"optimizer": torch.optim.LBFGS}, ValueError, "steps without a closure, got LBFGS"),
        ({"optimizer": lambda p: torch.optim.SGD(network().parameters(), 0.1)}, ValueError, "one's SGD holds others"),
        ({"optimizer": torch.optim.Adam, "lr": 0.1}, TypeError, "lr is set by the function that makes the optimizer"),
        ({"optimizer": torch.optim.Adam, "momentum": 0.1}, TypeError, "momentum is not used with a function as optim"),
        ({"schedule": lambda t: -t, "optimizer": "adam"}, ValueError, r"finite and >= 0, got -0\.001 at 0\.001"),
        ({"schedule": lambda t: t, "peak": 0.3}, TypeError, "peak is not used with a function as schedule"),
        ({"peak": 0.5, "schedule": "cosine"}, ValueError, "peak must be left out but for cyclic and one-cycle"),
        ({"peak_momentum": 0.8, "optimizer": "adam"}, ValueError, "peak_momentum must be left out but for sgd on cyc"),
        ({"eps_warmup": 1.0, "protocol": fastat.protocol("standard", eps=0.1)}, ValueError, "eps_warmup must be 0 for"),
        ({"awp_warmup": 1.0}, ValueError, "awp_warmup must be 0 for PGD-2 adversarial training, got 1.0"),
        ({"val": 112}, ValueError, "val must be at least 0 and below 112 samples, got 112"),
        ({"val": 0, "patience": 2}, ValueError, "patience must be left out without validation samples, got 2"),
        ({"val": samples(20, (5,))}, ValueError, r"val has samples of shape \[5\], those of train_set \[12\]"),
        ({"test": samples(20, (5,))}, ValueError, r"test has samples of shape \[5\], those of train_set \[12\]"),
        ({"test": samples(20, classes=7)}, ValueError, "val or test: own data has the label 6, there are classes 0..3"),
        ({"val": 0.1}, TypeError, "val must be a number of samples of train_set, or data, got 0.1"),
        ({"classes": "abcd"}, TypeError, "classes must be a list of names, got 'abcd'"),
        ({"threat": ("linf", 0.1)}, TypeError, r"threat must be a fastat.ThreatModel\('linf'"),
        ({"group": "gloo"}, TypeError, "group must be a process group of torch.distributed, got 'gloo'"),
        ({"eps": 0.1}, TypeError, r"eps is of the protocol: pass it to fastat.protocol\(...\)"),
        ({"eps_warmup": 9.0}, ValueError, "eps_warmup must be at most the 2 epochs of the run, got 9.0"),
        ({"model": network().double()}, ValueError, r"model fails on .*model.float\(\), and precision='bf16'"),
        ({"model": network(5)}, ValueError, r"model fails on inputs \[2, 12\]: RuntimeError"),
        ({"model": network(classes=3)}, ValueError, "model returns 3 logits, train_set has 4 classes"),
        ({"model": network(classes=1)}, ValueError, r"logits \[B, C\] of two classes.*got \[2, 1\] for \[2, 12\]"),
        ({"model": nn.Identity()}, ValueError, "model must have parameters"),
        ({"model": torch.compile(network())}, TypeError, "model must be the module itself, got OptimizedModule"),
        ({"model": network}, TypeError, "model must be a torch.nn.Module or the name of a network, got function"),
        ({"model": "small_cnn"}, ValueError, r"small_cnn takes images \[C, H, W\], got inputs \[12\]"),
        ({"model": "smal_cnn"}, ValueError, "did you mean 'small_cnn'"),
        ({"augment": "crop"}, ValueError, r"augment and cutout are for images \[C, H, W\], got samples \[12\]"),
        ({"augment": "flip"}, ValueError, "augment must be one of none, crop, crop-flip, got 'flip'"),
        ({"normalize": 0.5}, ValueError, "normalize must be 'data', a pair"),
        ({"protocol": "pgd-at"}, TypeError, r"protocol must be one, as fastat\.protocol\('pgd-at', eps=8 / 255\)"),
        ({"measure_every": 0}, ValueError, "measure_every must be at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_is_refused(changes, error, said, tmp_path):
    with pytest.raises(error, match=said):
        short(tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_another_run_in_the_folder(tmp_path):
    short(tmp_path)
    before = metrics(tmp_path)
    x, y = samples()
    for changes, said in (
        ({"given": (x.flip(0), y)}, "holds a run on other images"),
        ({"lr": 0.05}, "lr: 0.1 -> 0.05"),
        ({"protocol": fastat.protocol("pgd-at", eps=0.2, steps=2)}, "another configuration"),
        ({"optimizer": torch.optim.Adam}, r"optimizer: 'sgd' -> 'Adam\(lr=0.001, betas"),
        ({"model": nn.Sequential(nn.Linear(12, 4))}, "network: '[0-9a-f]+' -> '[0-9a-f]+'"),
        ({"val": 20}, "val_size: 16 -> 20"),
    ):
        with pytest.raises(ValueError, match=said):
            short(tmp_path, **changes)
    assert metrics(tmp_path) == before and Path(tmp_path, "config.json").exists()


@pytest.mark.parametrize("measured", [3, None, {"a": "b"}, {"a": torch.zeros(2)}])
def test_what_is_measured_are_numbers(measured, tmp_path):
    with pytest.raises(TypeError, match="measure must return a dict of numbers, got"):
        short(tmp_path, measure=lambda model: measured)
    found = short(tmp_path, measure=lambda model: {"a": torch.tensor(0.5), 3: np.float32(2)})
    assert found.history[-1]["measured"] == {"a": 0.5, "3": 2.0}


def test_bytes_and_bounds(tmp_path):
    x, y = samples()
    stored = (255 * x).to(torch.uint8)
    wide = fastat.protocol("pgd-at", eps=8, steps=2, bounds=(0, 255))
    with pytest.raises(ValueError, match=r"train_set holds bytes, which are pixels from 0 to 1 .* leave the bounds"):
        short(tmp_path / "a", given=(stored, y), protocol=wide)
    assert short(tmp_path / "b", given=(stored, y)).finished
    assert short(tmp_path / "c", given=(stored.float(), y), protocol=wide, normalize=(0.0, 255.0)).finished
    with pytest.raises(ValueError, match=r"outside the bounds \(0, 1\)"):  # those of the attack count too
        short(tmp_path / "d", given=(2 * x - 1, y), threat=fastat.ThreatModel("linf", 0.1, (-1, 1)))


def rate_of(lr):
    return lambda parameters: torch.optim.SGD(parameters, lr=lr)


class Falls:
    def __init__(self, end):
        self.end = end

    def __call__(self, progress):
        return 1 - progress * (1 - self.end)


def test_functions_and_modules_that_changed_are_others(tmp_path):
    def attack(model, x, y, by=0.05):
        return (x + by).clamp(0, 1)

    def protocol(by):
        return fastat.Protocol(partial(attack, by=by))

    threat = {"threat": fastat.ThreatModel("linf", 0.1)}
    for number, (old, new, said) in enumerate(
        (
            ({"optimizer": rate_of(0.1)}, {"optimizer": rate_of(0.5)}, r"SGD\(lr=0\.1.*-> 'SGD\(lr=0\.5"),
            ({"schedule": Falls(0.5)}, {"schedule": Falls(0.1)}, r"schedule: 'Falls\(end=0\.5\)"),
            (
                {"normalize": (torch.tensor([0.5]), 0.2)},
                {"normalize": (torch.tensor([0.1]), 0.2)},
                r"normalize: \[\[0\.5",
            ),
            ({"protocol": protocol(0.01), **threat}, {"protocol": protocol(0.02), **threat}, r"attack: .*by=0\.01"),
            ({"model": network()}, {"model": nn.Sequential(*network()[:3], nn.Tanh(), *network()[4:])}, "network: "),
        )
    ):
        short(tmp_path / str(number), **old)
        short(tmp_path / str(number), **old)  # the same again
        with pytest.raises(ValueError, match=said):
            short(tmp_path / str(number), **new)


class Held(nn.Linear):
    def get_extra_state(self):
        return Falls(0.5)

    def set_extra_state(self, state):
        pass


def test_a_state_that_no_checkpoint_can_hold(tmp_path):
    with pytest.raises(ValueError, match="model has a state that no checkpoint can hold, _extra_state"):
        short(tmp_path, Held(12, 4))


class Streamed(Drawn):
    """One sample has a value that is not valid."""

    def __init__(self, value):
        super().__init__(400)
        self.value = value

    def __getitem__(self, index):
        x, label = super().__getitem__(index)
        x[0] = self.value if index == 333 else x[0]
        return x, label


@pytest.mark.parametrize("value", [7.0, float("nan"), float("inf")])
def test_a_sample_that_leaves_the_bounds_is_named(value, tmp_path):
    with pytest.raises(ValueError, match=r"sample 333 has values from .* valid are \(0\.0, 1\.0\)"):
        short(tmp_path, given=Streamed(value), in_memory=False, workers=0, val=0)


def test_classes_that_mean_something_else(tmp_path):
    class Named(Drawn):
        classes = ("a", "c", "d", "e")

    with pytest.raises(
        ValueError, match=r"test has the classes \['a', 'c'.*the training samples \['a', 'b', 'c', 'd'\]"
    ):
        short(tmp_path, given=Drawn(), test=Named())
    found = short(tmp_path, test=samples(40), epochs=1)
    with pytest.raises(ValueError, match="test has 6 classes, the network 4"):
        found.report(samples(40, classes=6))
    with pytest.raises(ValueError, match=r"test has samples \[5\], on which the model fails"):
        found.report(samples(40, (5,)))


def test_other_layers_frozen_are_another_network(tmp_path):
    models = [network() for _ in range(2)]
    models[0][1].requires_grad_(False)
    models[1][5].requires_grad_(False)
    short(tmp_path, models[0])
    with pytest.raises(ValueError, match=r"network: '[0-9a-f]+' -> '[0-9a-f]+'"):
        short(tmp_path, models[1])


class Keeps(torch.optim.SGD):
    """Keeps a path beside its momenta."""

    def step(self, closure=None):
        super().step(closure)
        self.state[self.param_groups[0]["params"][0]]["path"] = Path()


def test_an_optimizer_that_no_checkpoint_can_hold_is_seen_at_once(tmp_path):
    with pytest.raises(ValueError, match="is not a checkpoint that can be read"):
        short(tmp_path, optimizer=partial(Keeps, lr=0.1), checkpoint_every=0)
    assert not (tmp_path / "metrics.jsonl").read_text()
