"""Training whose steps are recorded, by a stand-in for CUDA graphs: nothing about it may differ."""

import pytest
import torch
from stand_in import StandIn

from fastat.graphs import replay as graphs
from fastat.protocols import PROTOCOLS
from fastat.support.files import load_checkpoint
from fastat.training import default_config, open_configured, train_configured, with_fields
from fastat.training import loop as training
from fastat.training.checkpoint import go_back, snapshot
from fastat.training.loop import take_step

SMALL = {"epochs": 2, "attack_steps": 2, "train_size": 128, "batch_size": 32, "val_size": 64, "width": 4, "lr": 0.05}


def small(protocol="pgd-at", **changes):
    return default_config("digits", protocol, **{**SMALL, **changes})


def numbers(folder):
    """Everything a run ends with but its times."""
    state = load_checkpoint(folder / "checkpoint.pt")
    history = [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in state["history"]]
    return history, state["model"], state["average"], state["optimizer"]["state"], state["delta"]


def assert_same(one, other):
    assert one[0] == other[0]
    torch.testing.assert_close(one[1:], other[1:], rtol=0, atol=0)


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_every_protocol_trains_the_same(tmp_path, recorder, protocol):
    for graph in (True, False):
        network = train_configured(small(protocol), tmp_path / str(graph), device="cpu", graph=graph, quiet=True)
    assert_same(numbers(tmp_path / "True"), numbers(tmp_path / "False"))
    assert recorder.made > 0
    assert not any(module in graphs._all_recordings for module in network.model.modules())


@pytest.mark.parametrize(
    "changes",
    [
        {"awp": 0.01},
        {"average": "ema"},
        {"average": "ema", "ema_decay": 0.0},
        {"average": "swa", "clip_grad": 0.5},
        {"schedule": "one-cycle", "nesterov": True, "exempt_norm_and_bias": True},
        {"momentum": 0.0, "norm": "l2", "eps": 0.5},
        {"label_smoothing": 0.1, "loss": "trades", "attack": "pgd-kl", "protocol": "hr"},
        {"precision": "bf16"},
        {"optimizer": "adam", "weight_decay": 0.01},
        {"optimizer": "adamw", "average": "ema"},
        {"peak_momentum": 0.8, "peak": 0.5, "eps_warmup": 0.5},
        {"channels_last": "on", "augment": "crop", "cutout": 2},
        {"model": "preact_resnet18", "width": None, "epochs": 1, "train_size": 64, "batch_size": 16, "attack_steps": 1},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_every_setting_trains_the_same(tmp_path, recorder, changes):
    config = with_fields(small(changes.get("protocol", "pgd-at")), **changes)
    for graph in (True, False):
        train_configured(config, tmp_path / str(graph), device="cpu", graph=graph, quiet=True)
    assert_same(numbers(tmp_path / "True"), numbers(tmp_path / "False"))


@pytest.mark.parametrize("graph", [True, False])
def test_steps_validation_and_probes_are_recorded_unless_refused(tmp_path, recorder, monkeypatch, graph):
    monkeypatch.setattr(training.monitors, "PROBE_EVERY", 1)
    train_configured(small(), tmp_path, device="cpu", graph=graph, quiet=True)
    assert recorder.made > 1 if graph else recorder.made == 0


@pytest.mark.parametrize("graph", ["auto", 1, None])
def test_graph_is_true_or_false(tmp_path, graph):
    with pytest.raises(ValueError, match=f"graph must be True or False, got {graph!r}"):
        train_configured(small(), tmp_path / "run", device="cpu", graph=graph, quiet=True)
    assert not (tmp_path / "run").exists()


def is_replayed(run):
    return run.learner.replay.ready and not run.learner.replay.refused


def test_a_step_is_recorded_once(tmp_path, recorder):
    config = small(val_size=0, train_size=256)
    run = open_configured(config, tmp_path, None, torch.device("cpu"))
    batches = [next(run.images.train_set.batches(torch.arange(32) + 32 * i, 32)) for i in range(8)]
    for batch in batches:
        take_step(run, batch)
        run.state.current.step += 1
    assert is_replayed(run) and recorder.made == 1
    assert len(set(run.state.current.marks.losses.tolist())) == 8


def test_a_killed_run_goes_on_the_same(tmp_path, recorder, monkeypatch):
    config = small()
    train_configured(config, tmp_path / "whole", device="cpu", quiet=True)
    steps = iter(range(100))

    def interrupted(run, batch):
        if next(steps) == 6:
            raise KeyboardInterrupt
        take_step(run, batch)

    with monkeypatch.context() as patched:
        patched.setattr(training, "take_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_configured(config, tmp_path / "killed", device="cpu", quiet=True, checkpoint_every=0)
    train_configured(config, tmp_path / "killed", device="cpu", quiet=True)
    assert_same(numbers(tmp_path / "whole"), numbers(tmp_path / "killed"))


def test_a_bad_step_is_skipped(tmp_path, recorder):
    run = open_configured(small(), tmp_path, None, torch.device("cpu"))
    batch = next(run.images.train_set.batches(torch.arange(32), 32))
    for _ in range(3):
        take_step(run, batch)
        run.state.current.step += 1
    before = {k: v.clone() for k, v in run.learner.model.state_dict().items() if v.is_floating_point()}
    take_step(run, batch._replace(x=batch.x * float("nan")))
    assert is_replayed(run)
    assert all(torch.equal(run.learner.model.state_dict()[k], v) for k, v in before.items())
    assert run.state.current.marks.losses[:4].isnan().tolist() == [False, False, False, True]


def test_weights_that_a_rollback_put_back_are_those_that_train_on(tmp_path, recorder):
    runs = []
    for name, graph in (("a", True), ("b", False)):
        run = open_configured(small(), tmp_path / name, None, torch.device("cpu"), graph=graph)
        batches = [next(run.images.train_set.batches(torch.arange(32) + 16 * i, 32)) for i in range(4)]
        for i in range(8):
            if i == 3:
                run.state.sound = snapshot(run.learner, run.state.averaged)
            if i == 6:
                go_back(run.learner, run.state)
            take_step(run, batches[i % 4])
            run.state.current.step = (run.state.current.step + 1) % run.images.steps_per_epoch
        runs.append(run)
    for one, other in zip(*(run.learner.model.state_dict().values() for run in runs), strict=True):
        assert torch.equal(one, other)
    assert recorder.made == 2  # the optimizer's momenta are in another place after the rollback


def test_what_cannot_be_recorded_is_said_and_trains_the_same(tmp_path, monkeypatch):
    class Refuses(StandIn):
        def record(self, body, tensors):
            raise graphs.CaptureError("no such luck")

    monkeypatch.setattr(graphs, "RECORDERS", {"cpu": Refuses})
    refused = train_configured(small(val_size=0), tmp_path / "a", device="cpu", quiet=True)
    monkeypatch.undo()
    plain = train_configured(small(val_size=0), tmp_path / "b", device="cpu", quiet=True)
    texts = [finding["text"] for row in refused.history for finding in row["findings"]]
    assert texts == ["steps are not recorded as a CUDA graph: no such luck"]
    for one, other in zip(refused.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, other)
