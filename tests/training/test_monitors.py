"""Failures of training are seen, said, and answered as the configuration says."""

import json

import pytest
import torch
from killing import Killed, assert_same_run, kill_at_step
from training_cases import TINY, config_of

from fastat.support.files import load_checkpoint
from fastat.training import default_config, monitors, open_configured, train_configured, with_fields
from fastat.training import loop as training
from fastat.training import probes as probes_module
from fastat.training.loop import take_step
from fastat.training.monitors import (
    best_epoch,
    chance,
    collapsed,
    new_robust_overfitting,
    new_stuck,
    too_many_skipped,
)

SMALL = with_fields(TINY, epochs=3, val_size=12)


def row(pgd, findings=(), n=100, epoch=1):
    return {"epoch": epoch, "val": {"clean": 1.0, "fgsm": pgd, "pgd-20": pgd}, "val_images": n, "findings": findings}


@pytest.mark.parametrize(
    ("best", "fgsm", "pgd", "expected"),
    [
        (0.45, 0.85, 0.02, True),
        (0.45, 0.60, 0.21, True),
        (0.45, 0.50, 0.40, False),  # sound
        (0.45, 0.15, 0.02, False),  # FGSM breaks it as well
        (0.00, 0.95, 0.00, True),  # seen for the first time
        (0.05, 0.30, 0.01, False),  # never was robust
        (0.45, 0.44, 0.23, False),  # above half of the best
    ],
)
def test_collapse(best, fgsm, pgd, expected):
    assert collapsed(best, {"clean": 0.9, "fgsm": fgsm, "pgd-10": pgd}) is expected


def test_best_epoch_is_the_first_of_equals():
    assert best_epoch([row(0.3), row(0.5), row(0.5), row(0.1)]) == 1
    assert best_epoch([]) is None
    assert best_epoch([{"val": {}}]) is None


def test_robust_overfitting_is_said_once_and_not_for_noise():
    assert new_robust_overfitting([row(0.5), row(0.45, epoch=2)], over=True) is None
    text = new_robust_overfitting([row(0.5), row(0.3, epoch=2)], over=True)
    assert "30.0% after epoch 2, 20.0 points below that of epoch 1" in text
    said = [{"monitor": monitors.ROBUST, "step": 1, "text": text}]
    assert new_robust_overfitting([row(0.5), row(0.3, said), row(0.2)], over=True) is None


def clean(accuracy, findings=(), images=400):
    return {"epoch": 3, "val": {"clean": accuracy}, "val_images": images, "findings": list(findings)}


def test_nothing_learnt_is_said_once_after_two_epochs_or_at_the_end():
    assert chance(torch.tensor([0, 1, 1, 2])) == 0.5
    assert new_stuck([clean(0.1)], 0.1, over=False) is None
    text = (
        "accuracy on the 400 clean validation images is 12.0% after epoch 3, at chance: one class for all of them has"
    )
    assert new_stuck([clean(0.1), clean(0.12)], 0.1, over=False).startswith(text)
    assert new_stuck([clean(0.12)], 0.1, over=True).startswith(text)
    assert new_stuck([clean(0.14)], 0.1, over=True) is None  # 10% and 1.96 standard errors are 12.9%
    assert new_stuck([clean(0.14), clean(0.1)], 0.1, over=False) is None
    said = [{"monitor": "nothing learnt", "step": 1, "text": ""}]
    assert new_stuck([clean(0.1, said), clean(0.1)], 0.1, over=True) is None
    assert new_stuck([clean(0.1, images=49)], 0.1, over=True) is None  # too few images to tell
    assert new_stuck([{"val": {}, "val_images": 0, "findings": []}], 0.1, over=True) is None


def test_a_run_that_stays_at_chance_says_so(tmp_path, capsys):
    config = config_of("standard", epochs=2, lr=1e-6, val_size=100)
    network = train_configured(config, tmp_path / "stuck")
    found = [finding["monitor"] for row in network.history for finding in row["findings"]]
    assert found == ["nothing learnt"] and "nothing learnt: accuracy on the 100 clean" in capsys.readouterr().out
    network = train_configured(
        config_of("standard", epochs=2, train_size=None, val_size=100), tmp_path / "learns", quiet=True
    )
    assert not [finding for row in network.history for finding in row["findings"]]


def test_a_dip_is_no_robust_overfitting_but_five_epochs_are():
    assert new_robust_overfitting([row(0.5), *4 * [row(0.3)]], over=False) is None
    assert new_robust_overfitting([row(0.5), *5 * [row(0.3)]], over=False) is not None
    assert new_robust_overfitting([row(0.5), *3 * [row(0.3)], row(0.49), *3 * [row(0.3)]], over=False) is None


def test_too_many_skipped():
    assert [too_many_skipped(n, 1000) for n in (0, 3, 50, 51)] == [False, False, False, True]
    assert [too_many_skipped(n, 10) for n in (3, 4)] == [False, True]
    assert too_many_skipped(2, 2)


def poison(monkeypatch, *steps):
    """NaN in the images of these steps, as if the network had overflowed."""

    def poisoned(run, batch):
        if run.state.step in steps:
            batch = batch._replace(x=batch.x * float("nan"))
        take_step(run, batch)

    monkeypatch.setattr(training, "take_step", poisoned)


@pytest.mark.parametrize(
    "changes",
    [{}, {"objective": "holistic"}, {"awp": 0.01}, {"attack": "free"}, {"average": "ema"}, {"clip_grad": 1.0}],
)
@pytest.mark.parametrize("skipped", [0, 1])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(tmp_path, monkeypatch, changes, skipped):
    config = with_fields(SMALL, epochs=1, **changes)
    if "objective" in changes:
        config = with_fields(config, protocol="hr")
    if "attack" in changes:
        config = with_fields(config, protocol="free")
    poison(monkeypatch, skipped)
    network = train_configured(config, tmp_path)
    assert all(bool(value.isfinite().all()) for value in network.model.state_dict().values())
    (only,) = network.history
    assert only["train"]["skipped"] == 1
    assert only["train"]["loss"] > 0
    assert [found["monitor"] for found in only["findings"]] == [monitors.SKIPPED]
    assert "1 of 3 steps" in only["findings"][0]["text"]
    json.dumps(only, allow_nan=False)


def test_a_skipped_step_leaves_weights_momenta_and_statistics(tmp_path, monkeypatch):
    before, after = [], []

    def state(run):
        momenta = [value["momentum_buffer"] for value in run.learner.optimizer.state_dict()["state"].values()]
        counters = ("num_batches_tracked",)
        kept = [v for name, v in run.learner.model.state_dict().items() if not name.endswith(counters)]
        return [value.clone() for value in (*kept, *momenta)]

    def poisoned(run, batch):
        if run.state.step == 1:
            before.extend(state(run))
            take_step(run, batch._replace(x=batch.x * float("nan")))
            after.extend(state(run))
        else:
            take_step(run, batch)

    monkeypatch.setattr(training, "take_step", poisoned)
    train_configured(with_fields(SMALL, epochs=1), tmp_path)
    assert len(before) > 20
    assert all(old.equal(new) for old, new in zip(before, after, strict=True))


def test_many_skipped_steps_end_the_run(tmp_path, monkeypatch):
    poison(monkeypatch, 3, 4, 5)
    with pytest.raises(FloatingPointError, match=r"3 steps of epoch 2, the last of them step 3, .* lower lr may help"):
        train_configured(SMALL, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 1


def collapse_at(monkeypatch, *probes):
    """Probes of every third step; these of them see catastrophic overfitting, whatever the network is.

    Validation after an epoch sees what the last probe saw, until the run is rolled back.
    """
    seen, last = iter(range(1000)), [False]

    def accuracy(run, images, attacks, model):
        if attacks == probes_module._PROBES:
            last[0] = next(seen) in probes
            return {"clean": 0.9, "fgsm": 0.9, "pgd-10": 0.02 if last[0] else 0.5}
        broken = last[0] and run.state.watch.rollbacks == 0
        return {"clean": 0.9, "fgsm": 0.9, "pgd-20": 0.02 if broken else 0.5}

    monkeypatch.setattr(probes_module, "accuracy_of", accuracy)
    monkeypatch.setattr(monitors, "PROBE_EVERY", 3)


def test_a_collapse_is_reported_once(tmp_path, monkeypatch, capsys):
    collapse_at(monkeypatch, 1, 2)
    network = train_configured(SMALL, tmp_path)
    found = [item for line in network.history for item in line["findings"] if item["monitor"] != monitors.ROBUST]
    assert [(item["monitor"], item["step"]) for item in found] == [(monitors.CATASTROPHIC, 6)]
    assert "PGD accuracy 2.0% after 50.0% at best, FGSM accuracy 90.0% (12 images)" in found[0]["text"]
    assert found[0]["text"] in capsys.readouterr().out


def test_a_collapse_stops_the_run(tmp_path, monkeypatch):
    collapse_at(monkeypatch, 1)
    network = train_configured(with_fields(SMALL, epochs=5, on_collapse="stop"), tmp_path)
    assert [line["steps"] for line in network.history] == [3, 6]
    assert network.stopped == monitors.CATASTROPHIC
    assert network.finished
    again = train_configured(with_fields(SMALL, epochs=5, on_collapse="stop"), tmp_path)
    assert again.history == network.history


def test_a_collapse_in_the_middle_of_an_epoch_stops_there(tmp_path, monkeypatch):
    collapse_at(monkeypatch, 1)
    monkeypatch.setattr(monitors, "PROBE_EVERY", 2)
    network = train_configured(with_fields(SMALL, on_collapse="stop"), tmp_path)
    assert [line["steps"] for line in network.history] == [3, 4]
    assert network.history[-1]["train"]["adversarial"] <= 1


def test_a_collapse_rolls_back_to_the_last_sound_weights(tmp_path, monkeypatch):
    weights = {}

    def watching(run, batch):
        take_step(run, batch)
        weights[run.state.step + 1] = [p.detach().clone() for p in run.learner.model.parameters()]

    collapse_at(monkeypatch, 1)
    monkeypatch.setattr(training, "take_step", watching)
    config = with_fields(SMALL, epochs=2, on_collapse="rollback", average="ema", select="last")
    network = train_configured(config, tmp_path)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    last = [state["model"][name] for name, _ in network.model.named_parameters()]
    assert all(one.equal(other) for one, other in zip(last, weights[3], strict=True))
    assert not all(one.equal(other) for one, other in zip(last, weights[6], strict=True))
    assert "back to the last sound weights" in network.history[-1]["findings"][0]["text"]
    assert state["watch"]["rollbacks"] == 1


def test_rolling_back_has_an_end(tmp_path, monkeypatch):
    collapse_at(monkeypatch, *range(1, 20))
    network = train_configured(with_fields(SMALL, epochs=9, on_collapse="rollback"), tmp_path)
    assert network.stopped == monitors.CATASTROPHIC
    assert len(network.history) == 7


def test_a_killed_run_remembers_what_was_sound(tmp_path, monkeypatch):
    config = with_fields(SMALL, on_collapse="rollback")
    with monkeypatch.context() as patched:
        collapse_at(patched, 1)
        train_configured(config, tmp_path / "whole")
    with monkeypatch.context() as patched:
        collapse_at(patched, 99)
        kill_at_step(patched, 5)
        with pytest.raises(Killed):
            train_configured(config, tmp_path / "killed", checkpoint_every=0)
    with monkeypatch.context() as patched:
        collapse_at(patched, 0)  # the probe that comes next
        train_configured(config, tmp_path / "killed")
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_standard_training_is_not_probed(tmp_path, monkeypatch):
    collapse_at(monkeypatch, 1, 2, 3)
    network = train_configured(with_fields(SMALL, protocol="standard", attack="none"), tmp_path)
    assert not any(line["findings"] for line in network.history)


def test_patience(tmp_path, monkeypatch):
    values = iter([0.3, 0.5, 0.4, 0.5, 0.6])

    def accuracy(run, images, attacks, model):
        value = next(values)
        return {"clean": 0.9, "fgsm": value, "pgd-20": value}

    monkeypatch.setattr(probes_module, "accuracy_of", accuracy)
    network = train_configured(with_fields(SMALL, epochs=9, patience=2), tmp_path)
    assert len(network.history) == 4
    assert (network.epoch, network.which) == (2, "best")
    assert not any(line["findings"] for line in network.history)
    assert network.stopped == "no better PGD accuracy on the validation images for 2 epochs"


def test_robust_overfitting_of_a_run_is_reported_at_its_step(tmp_path, monkeypatch):
    values = iter([0.9, 0.9, 0.1])

    def accuracy(run, images, attacks, model):
        value = next(values)
        return {"clean": 0.9, "fgsm": value, "pgd-20": value}

    monkeypatch.setattr(probes_module, "accuracy_of", accuracy)
    network = train_configured(SMALL, tmp_path)
    (found,) = network.history[-1]["findings"]
    assert (found["monitor"], found["step"]) == (monitors.ROBUST, 9)
    assert "10.0% after epoch 3, 80.0 points below that of epoch 1" in found["text"]


def test_the_first_step_skipped_leaves_momenta_of_zero(tmp_path):
    """torch allocates the momenta of a skipped first step without writing them."""
    junk = [torch.full((292_010,), 1e30) for _ in range(8)]
    del junk
    run = open_configured(SMALL, tmp_path, None, torch.device("cpu"))
    batch = next(run.images.train_set.batches(torch.arange(32), 32))
    training.take_step(run, batch._replace(x=batch.x * float("nan")))
    momenta = [value["momentum_buffer"] for value in run.learner.optimizer.state_dict()["state"].values()]
    assert len(momenta) == len(list(run.learner.model.parameters()))
    assert not any(bool(value.any()) for value in momenta)


def test_a_run_stopped_in_mid_epoch_and_killed_closes_its_epoch(tmp_path, monkeypatch):
    config = with_fields(SMALL, on_collapse="stop")
    collapse_at(monkeypatch, 1)
    monkeypatch.setattr(monitors, "PROBE_EVERY", 2)
    with monkeypatch.context() as patched:
        patched.setattr(training, "_average_epoch", interrupt)  # what comes after the last step
        with pytest.raises(Killed):
            train_configured(config, tmp_path, checkpoint_every=0)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] == 1
    network = train_configured(config, tmp_path)
    assert [line["steps"] for line in network.history] == [3, 4]
    assert network.stopped == monitors.CATASTROPHIC
    assert network.history[-1]["findings"][0]["step"] == 4


def interrupt(run):
    if run.state.stopped:
        raise Killed


def test_a_collapse_is_seen_by_validation_too(tmp_path, monkeypatch):
    def accuracy(run, images, attacks, model):
        assert attacks == probes_module.WATCHED
        return {"clean": 0.9, "fgsm": 0.9, "pgd-20": 0.1 if run.state.epoch == 1 else 0.5}

    monkeypatch.setattr(probes_module, "accuracy_of", accuracy)
    network = train_configured(with_fields(SMALL, on_collapse="stop"), tmp_path)
    assert [line["steps"] for line in network.history] == [3, 6]
    assert network.stopped == monitors.CATASTROPHIC


@pytest.mark.slow
def test_a_real_collapse_is_reported(tmp_path):
    """FGSM training at a radius where it overfits on digits: FGSM's accuracy rises, PGD's does not."""
    network = train_configured(default_config("digits", "fgsm-at", eps=0.3), tmp_path)
    found = [item for line in network.history for item in line["findings"]]
    assert monitors.CATASTROPHIC in [item["monitor"] for item in found]
    last = network.history[-1]["val"]
    assert last["fgsm"] > 2 * last["pgd-20"]
