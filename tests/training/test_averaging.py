"""Averages of the weights: what they are, that they are what is evaluated and kept, and that they resume."""

import pytest
import torch
from killing import assert_resumes, assert_same_run
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from training_cases import TINY

from fastat.support.files import load_checkpoint
from fastat.training import load_network, probes, train_configured, with_fields
from fastat.training import loop as training
from fastat.training.averaging import average_of, ema_share, move_average_
from fastat.training.loop import take_step


def steps(model: nn.Module, n: int):
    """The model after each of n changes of all its parameters and statistics."""
    for _ in range(n):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        model(torch.randn(8, 3))
        yield


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_equal_shares_are_the_average_that_torch_has():
    model = network()
    ours, theirs = average_of(model), AveragedModel(model, use_buffers=True)
    for i, _ in enumerate(steps(model, 5)):
        move_average_(ours, model, 1 / (i + 1))
        theirs.update_parameters(model)
    for one, other in zip(ours.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(ours[1].running_var, theirs.module[1].running_var)
    assert int(ours[1].num_batches_tracked) == 5
    assert not any(p.requires_grad for p in ours.parameters())
    assert not ours.training


def test_exponential_shares_are_the_average_that_torch_has():
    model = network()
    ours, theirs = average_of(model), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in steps(model, 5):
        move_average_(ours, model, 1.0 if theirs.n_averaged == 0 else 0.1)
        theirs.update_parameters(model)
    for one, other in zip(ours.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_start_of_the_exponential_average_forgets_the_initial_weights():
    assert ema_share(0.995, 1) == pytest.approx(0.9)
    assert ema_share(0.995, 10) == pytest.approx(9 / 19)
    assert ema_share(0.995, 10_000) == pytest.approx(0.005)
    assert ema_share(0.5, 100) == 0.5


def recorded(monkeypatch) -> list[list[torch.Tensor]]:
    """The weights after every step of a run that follows."""
    found = []

    def watching(run, batch):
        take_step(run, batch)
        found.append([p.detach().clone() for p in run.learner.model.parameters()])

    monkeypatch.setattr(training, "take_step", watching)
    return found


def test_the_exponential_average_of_a_run(tmp_path, monkeypatch):
    weights = recorded(monkeypatch)
    config = with_fields(TINY, average="ema", ema_decay=0.8, select="last")
    trained = train_configured(config, tmp_path)
    mean = weights[0]
    for i, now in enumerate(weights):
        share = ema_share(0.8, i + 1)
        mean = [m + share * (w - m) for m, w in zip(mean, now, strict=True)]
    for one, other in zip(trained.model.parameters(), mean, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-4, atol=1e-5)
    assert (
        load_network(tmp_path, "cpu")
        .model.state_dict()["model.5.weight"]
        .equal(trained.model.state_dict()["model.5.weight"])
    )
    assert load_checkpoint(tmp_path / "checkpoint.pt")["average"] is not None


def test_the_equal_average_of_a_run(tmp_path, monkeypatch):
    weights = recorded(monkeypatch)
    trained = train_configured(with_fields(TINY, epochs=4, average="swa", swa_start=0.5, select="last"), tmp_path)
    expected = [(one + other) / 2 for one, other in zip(weights[8], weights[11], strict=True)]
    for one, other in zip(trained.model.parameters(), expected, strict=True):
        torch.testing.assert_close(one.detach(), other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_resumed_to_the_bit(tmp_path, monkeypatch, average):
    assert_resumes(monkeypatch, with_fields(TINY, average=average, swa_start=0.0), tmp_path, 4)


def test_the_best_network_is_the_average_of_its_epoch(tmp_path, monkeypatch):
    values = iter([0.1, 0.6, 0.3])
    monkeypatch.setattr(probes, "accuracy_of", lambda *_, **__: {"clean": 0.9, "fgsm": 0.5, "pgd-20": next(values)})
    averages = []

    def measure(model):
        averages.append({name: value.clone() for name, value in model.state_dict().items()})
        return {}

    trained = train_configured(with_fields(TINY, epochs=3, average="ema"), tmp_path, measure=measure)
    assert (trained.epoch, trained.which) == (2, "best")
    again = load_network(tmp_path, "cpu")
    assert (again.epoch, again.which, again.finished) == (2, "best", True)
    last = load_network(tmp_path, "cpu", which="last")
    assert (last.epoch, last.which) == (3, "last")
    by_file = load_network(tmp_path / "best.pt", "cpu")
    for found, expected in ((trained, averages[1]), (again, averages[1]), (by_file, averages[1]), (last, averages[2])):
        state = found.model.state_dict()
        assert all(state[name].equal(value) for name, value in expected.items())


def test_an_interrupt_while_the_epoch_is_judged_does_not_average_it_twice(tmp_path, monkeypatch):
    config = with_fields(TINY, epochs=3, average="swa", swa_start=0.0)
    train_configured(config, tmp_path / "whole")
    accuracy, calls = probes.accuracy_of, iter(range(100))

    def interrupted(*arguments, **options):
        if next(calls) == 1:
            raise KeyboardInterrupt
        return accuracy(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(probes, "accuracy_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_configured(config, tmp_path / "stopped")
    train_configured(config, tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
