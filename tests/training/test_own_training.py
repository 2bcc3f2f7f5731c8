"""``fastat.train``: one's own network, samples, optimizer and loop's listeners; exact resume; what is refused."""

import json
import os
import signal
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from killing import Killed, assert_same_run, kill_at_step, signal_as_workers_end
from own_cases import Drawn, Wrapped, network, samples, short
from torch import nn
from torch.utils.data import TensorDataset

import fastat
from fastat.cli import main
from fastat.support.files import load_checkpoint
from fastat.training import Terminated, load_network


def test_a_module_is_trained_in_place(tmp_path):
    x, y = samples()
    model, test = network(), samples(40)
    initial = [p.detach().clone() for p in model.parameters()]
    found = short(tmp_path, model, TensorDataset(x, y), test=test, epochs=4, lr=0.05)
    assert found.model is model and not model.training
    assert all(p.grad is None and not p.equal(old) for p, old in zip(model.parameters(), initial, strict=True))
    assert found.classes == ("0", "1", "2", "3") and found.finished and found.folder == tmp_path
    right = (model(x).argmax(1) == y).float().mean()
    assert right > 0.9 and found.history[-1]["val"]["clean"] > 0.9
    kept = load_checkpoint(tmp_path / ("best.pt" if found.which == "best" else "checkpoint.pt"))["model"]
    assert all(kept[name].equal(t) for name, t in model.state_dict().items())


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_an_average_ends_in_the_module(average, tmp_path):
    model = network()
    found = short(tmp_path, model, average=average, select="last", swa_start=0.0)
    kept = load_checkpoint(tmp_path / "checkpoint.pt")
    assert found.model is model
    for name, t in model.state_dict().items():
        assert kept["average"][name].equal(t)
    assert any(not kept["model"][name].equal(t) for name, t in model.state_dict().items())
    again = load_network(tmp_path, "cpu", model=network())
    assert all(a.equal(b) for a, b in zip(again.model.state_dict().values(), kept["average"].values(), strict=True))


def test_the_same_training_as_that_of_the_configuration(tmp_path):
    """Names are those of the command line: the same weights, order, attacks and steps."""
    flags = ["--epochs", "1", "--attack-steps", "2", "--val-size", "32", "--eval-size", "20", "--lr", "0.05", "--quiet"]
    main(["train", "trades", *flags, "--out", str(tmp_path / "configured")])
    protocol = fastat.protocol("trades", eps=0.1, steps=2, mode="eval")
    fastat.train(
        "small_cnn", "digits", protocol, epochs=1, val=32, lr=0.05, out=tmp_path / "own", quiet=True, device="cpu"
    )
    assert_same_run(tmp_path / "configured", tmp_path / "own")


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam"}, {"optimizer": "adamw", "weight_decay": 0.1}, {"peak_momentum": 0.8, "peak": 0.5},
        {"optimizer": partial(torch.optim.RAdam, lr=0.01), "schedule": lambda t: 1 - t},
        {"given": Drawn()}, {"average": "ema", "optimizer": "adam"}, {"eps_warmup": 1.5},
        {"protocol": fastat.protocol("free", eps=0.1, replays=2)},
        {"protocol": fastat.protocol("trades", eps=0.1, steps=1, awp=0.01), "awp_warmup": 1.0},
    ],
    ids=lambda changes: "-".join(changes),
)  # fmt: skip
def test_a_killed_run_ends_as_one_that_is_left_alone(changes, tmp_path, monkeypatch):
    short(tmp_path / "whole", **changes)
    with monkeypatch.context() as patched:
        kill_at_step(patched, 4)
        with pytest.raises(Killed):
            short(tmp_path / "killed", checkpoint_every=0, **changes)
    model = nn.Sequential(*network())
    for p in model.parameters():
        nn.init.constant_(p, 3.0)  # a run that goes on has its weights from its folder
    found = short(tmp_path / "killed", model, **changes)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert found.finished


@pytest.mark.parametrize("shape", [(1, 30), (7,), (2, 3, 4, 5), (3, 8, 8)])
def test_samples_of_any_shape(shape, tmp_path):
    inputs = int(torch.tensor(shape).prod())
    found = short(tmp_path, network(inputs), samples(shape=shape), test=samples(40, shape), epochs=1)
    page = found.report(quiet=True)
    assert page == tmp_path / "report.html" and "PGD-50x10" in page.read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["test_images"] == 40 and results["model"] == "Sequential"
    assert ("figures/adversarial_examples.png" in results["figures"]) == (len(shape) == 3)


@pytest.mark.parametrize("average", ["none", "ema"])
def test_a_scripted_module(average, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = torch.jit.script(network())
    found = short(tmp_path, model, average=average, epochs=3, lr=0.05)
    assert found.model is model and found.history[-1]["val"]["clean"] > 0.5


def test_convolutions_of_any_dimension_with_channels_last(tmp_path):
    model = nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 2 * 3, 4))
    assert short(tmp_path / "volume", model, samples(shape=(2, 3, 4, 5)), channels_last="on", epochs=1).finished
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 4))
    short(tmp_path / "image", model, samples(shape=(3, 8, 8)), channels_last="on", epochs=1)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_a_report_from_the_folder(tmp_path, capsys):
    found = short(tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match="test must be given: the training was given none"):
        found.report()
    again = load_network(tmp_path / "run", "cpu", model=network())
    again.report(samples(40), size=30)
    assert "30 test images, 1 epochs of PGD-2 adversarial training" in capsys.readouterr().out
    main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")])
    assert "Sequential" in (tmp_path / "page.html").read_text()
    for flags in (["evaluate", str(tmp_path / "run")], ["evaluate", str(tmp_path / "run" / "checkpoint.pt")]):
        with pytest.raises(SystemExit, match="is an object, Sequential, which no file can bring back: pass model="):
            main(flags)
    with pytest.raises(ValueError, match="holds the weights of another network"):
        load_network(tmp_path / "run", "cpu", model=nn.Linear(12, 4))


def test_normalization_and_bounds(tmp_path):
    x, y = samples()
    shifted = 2 * x - 1
    with pytest.raises(ValueError, match=r"train_set has values from -0\.9.* to 0\..*outside the bounds \(0, 1\)"):
        short(tmp_path / "refused", given=(shifted, y))
    protocol = fastat.protocol("pgd-at", eps=0.2, steps=2, bounds=(-1, 1))
    found = short(tmp_path / "own", given=(shifted, y), protocol=protocol, test=(shifted[:40], y[:40]))
    assert found.record.threat == fastat.ThreatModel("linf", 0.2, (-1.0, 1.0))
    found.report(quiet=True)
    inside = short(tmp_path / "declared", normalize=(0.5, 0.25))
    assert isinstance(inside.model, fastat.Normalized) and float(inside.model.std) == 0.25
    for model in (network(), fastat.Normalized(network(), 0.0, 1.0)):
        again = load_network(tmp_path / "declared", "cpu", model=model)
        assert again.model(x).equal(inside.model(x)) and float(again.model.mean) == 0.5
    by_data = short(tmp_path / "data", normalize="data")
    torch.testing.assert_close(by_data.model.mean, x.mean(0))


def test_who_listens(tmp_path):
    steps, epochs = [], []

    def measure(model):
        return {"bias": float(model[-1].bias.sum().detach())}

    found = short(tmp_path / "run", on_step=steps.append, on_epoch=epochs.append, measure=measure)
    assert [report.step for report in steps] == [1, 2, 3, 4, 5, 6] and [r.epoch for r in steps] == [1] * 3 + [2] * 3
    assert epochs == found.history and set(epochs[0]["measured"]) == {"bias"}
    mean = torch.stack([report.loss for report in steps[3:]]).mean()
    assert float(mean) == pytest.approx(epochs[1]["train"]["loss"], rel=1e-6)
    assert sum(float(r.adversarial) for r in steps[:3]) / 3 == pytest.approx(epochs[0]["train"]["adversarial"])
    assert steps[-1].lr == epochs[-1]["lr"] and 0 < steps[0].lr < 0.1

    def fails(report):
        if report.step == 5:
            raise OSError("no network")

    with pytest.raises(OSError, match="no network"):
        short(tmp_path / "fails", on_step=fails)
    assert load_checkpoint(tmp_path / "fails" / "checkpoint.pt")["step"] == 2
    short(tmp_path / "fails", measure=measure)
    short(tmp_path / "plain")
    kept = [load_checkpoint(tmp_path / name / "checkpoint.pt")["model"] for name in ("fails", "plain", "run")]
    for name, t in kept[0].items():
        assert kept[1][name].equal(t) and kept[2][name].equal(t)
    with pytest.raises(TypeError, match="on_step must be a function, got 3"):
        short(tmp_path / "other", on_step=3)


def test_parts_that_are_not_trained(tmp_path):
    model = Wrapped()
    model.inner[1].requires_grad_(False)
    model.extra = nn.Linear(3, 3)  # no gradient reaches it
    before = model.inner[1].weight.clone(), model.extra.weight.detach().clone()
    short(tmp_path, model)
    assert model.inner[1].weight.equal(before[0]) and model.extra.weight.equal(before[1])


def test_attacks_of_ones_own(tmp_path):
    def attack(model, x, y):
        return (x + 0.05).clamp(0, 1)

    protocol = fastat.Protocol(attack, loss=lambda output, y: F.cross_entropy(output, y, reduction="none"))
    with pytest.raises(ValueError, match="threat must say which perturbations the run is watched under"):
        short(tmp_path, protocol=protocol)
    found = short(tmp_path, protocol=protocol, threat=fastat.ThreatModel("l2", 0.3))
    assert found.record.training == "<lambda> on attack" and found.record.threat.norm == "l2"
    assert "test_attacks_of_ones_own.<locals>.attack " in found.record.fields["attack"]
    with pytest.raises(ValueError, match="another configuration"):
        short(tmp_path, threat=fastat.ThreatModel("l2", 0.3))


def test_outputs_that_hold_logits_and_classes_without_samples(tmp_path):
    found = short(tmp_path, Wrapped(), test=samples(40))
    found.report(quiet=True)
    wide = short(tmp_path / "wide", network(classes=6))
    assert wide.classes == ("0", "1", "2", "3", "4", "5")


class Broken(Drawn):
    """A sample cannot be read, once."""

    def __init__(self, place):
        super().__init__()
        self.place, self.calls = place, 0

    def __getitem__(self, index):
        self.calls += 1
        if self.calls == self.place:
            raise OSError("truncated file")
        return super().__getitem__(index)


def test_what_the_caller_raises_loses_nothing(tmp_path, monkeypatch):
    """A measurement, or a sample that cannot be read: the run is saved first."""

    def fails(model):
        raise RuntimeError("no luck")

    short(tmp_path / "whole", given=Drawn(), workers=0)
    with pytest.raises(RuntimeError, match="no luck"):
        short(tmp_path / "measured", given=Drawn(), workers=0, measure=fails)
    assert load_checkpoint(tmp_path / "measured" / "checkpoint.pt")["step"] == 3
    short(tmp_path / "measured", given=Drawn(), workers=0)
    assert_same_run(tmp_path / "whole", tmp_path / "measured")
    given = Broken(0)
    given.place = 10**9
    short(tmp_path / "count", given=given, workers=0)
    for place in range(given.calls - 100, given.calls, 40):  # where training reads
        with pytest.raises(OSError, match="truncated file"):
            short(tmp_path / f"read {place}", given=Broken(place), workers=0)
        short(tmp_path / f"read {place}", given=Broken(10**9), workers=0)
        assert_same_run(tmp_path / "count", tmp_path / f"read {place}")


def test_a_signal_to_all_processes_saves(tmp_path):
    """Schedulers end a job by SIGTERM to it and to the workers that read its samples."""
    script = (
        "import faulthandler, sys, fastat; from own_cases import *\n"
        "faulthandler.dump_traceback_later(300, exit=True)\n"
        "fastat.train(network(), Drawn(900), PROTOCOL, out=sys.argv[1], workers=2, checkpoint_every=1e9,"
        " on_step=lambda step: print('step', flush=True), **{**SHORT, 'epochs': 50})\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(3)] == ["step\n"] * 3
    os.killpg(child.pid, signal.SIGTERM)
    _, said = child.communicate()
    assert "Terminated" in said and "DataLoader worker" not in said
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert saved["epoch"] > 0 or saved["step"] >= 3


def test_a_signal_at_the_end_of_an_epoch_is_not_lost(tmp_path, monkeypatch):
    signal_as_workers_end(monkeypatch)
    with pytest.raises(Terminated):
        short(tmp_path, given=Drawn(900), workers=2)
    saved = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (saved["epoch"], saved["step"]) == (0, 27)


def test_a_longer_run_is_measured_anew(tmp_path, capsys):
    found = short(tmp_path, test=samples(40), schedule="constant")
    found.report(quiet=True)
    assert (tmp_path / "results.json").exists()
    short(tmp_path, schedule="constant", quiet=False)
    assert f"{tmp_path} holds this run, finished after 2 epochs" in capsys.readouterr().out
    assert (tmp_path / "results.json").exists()
    short(tmp_path, schedule="constant", epochs=3)
    assert not (tmp_path / "results.json").exists()


class Counts(nn.Sequential):
    """Keeps a number that its state leaves out, and computes with it."""

    def __init__(self):
        super().__init__(*network())
        self.register_buffer("count", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.count += self.training
        return super().forward(x) * (1 + 0.01 * self.count)


def test_buffers_that_the_state_leaves_out_go_on(tmp_path, monkeypatch):
    short(tmp_path / "whole", Counts())
    with monkeypatch.context() as patched:
        kill_at_step(patched, 4)
        with pytest.raises(Killed):
            short(tmp_path / "killed", Counts(), checkpoint_every=0)
    short(tmp_path / "killed", Counts())
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_samples_set_apart_that_are_transformed(tmp_path):
    texts = [f["text"] for f in short(tmp_path / "a", given=Drawn()).history[0]["findings"]]
    assert texts == ["the 16 samples set apart keep the random transforms of train_set: pass val= for plain ones"]
    plain = short(tmp_path / "b", given=Drawn(), val=samples(40))
    assert plain.history[0]["findings"] == [] and plain.history[0]["val_images"] == 40
