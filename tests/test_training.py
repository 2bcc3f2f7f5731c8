"""The training loop: what a step does, and that a run can be killed at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from fastat import checkpoint, data, training
from fastat.attacks import pgd
from fastat.checkpoint import load_checkpoint
from fastat.config import TrainConfig, differing_fields
from fastat.interrupt import interrupts_deferred
from fastat.run import load_network, open_run
from fastat.training import learning_rate, train

TINY = TrainConfig(epochs=2, attack_steps=2, batch_size=32, train_size=96, monitor_size=16)


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """Weights, statistics and momenta of the last checkpoint."""
    state = load_checkpoint(folder / "checkpoint.pt")
    found = dict(state["model"])
    for index, buffers in state["optimizer"]["state"].items():
        found[f"momentum {index}"] = buffers["momentum_buffer"]
    return found


def assert_same_run(one: Path, other: Path) -> None:
    """Equal to the bit, and the same metrics apart from the clock."""
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    assert metrics(one) == metrics(other)


def metrics(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["images_per_second"]
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A tiny run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(TINY, folder)
    return folder


def test_run_folder(finished):
    assert sorted(entry.name for entry in finished.iterdir()) == ["checkpoint.pt", "config.json", "metrics.jsonl"]
    assert TrainConfig(**json.loads((finished / "config.json").read_text())) == TINY
    rows = metrics(finished)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["steps"] for row in rows] == [3, 6]
    assert set(rows[0]["test"]) == {"clean", "fgsm", "pgd-20"}
    assert rows[0]["test_images"] == 16


def test_one_step_is_the_textbook(tmp_path):
    config = replace(TINY, schedule="cosine", augment="crop-flip", lr=0.05)
    run = open_run(config, tmp_path / "run", None, torch.device("cpu"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    index = torch.arange(10, 42)
    training._train_step(run, index)
    after = run.model.state_dict()

    # again by hand: same start, the attack in eval mode, one step of SGD with weight decay
    textbook = open_run(config, tmp_path / "other", None, torch.device("cpu"))
    model = textbook.model
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    batch = textbook.train_set.take(index)
    x = data.augment(batch.images, batch.ids, "crop-flip", config.seed, 0).float() / 16
    seed = training.derive_seed(config.seed, 0, training._ATTACK)
    x_adv = pgd(model.eval(), x, batch.labels, config.eps, steps=2, seed=seed, sample_ids=batch.ids)
    loss = F.cross_entropy(model.train()(x_adv), batch.labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    lr = learning_rate(config, 0.5 / 6)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        expected = parameter - lr * (gradient + config.weight_decay * parameter)
        torch.testing.assert_close(after[name], expected.detach(), rtol=1e-5, atol=1e-7)
    assert float(run.losses[0]) == pytest.approx(loss.item())


def test_attack_leaves_the_statistics_of_batch_norm_alone_in_eval_mode(tmp_path):
    run = open_run(TINY, tmp_path, None, torch.device("cpu"))
    training._train_step(run, torch.arange(32))
    counts = [int(value) for name, value in run.model.state_dict().items() if name.endswith("num_batches_tracked")]
    assert set(counts) == {1}


def test_every_epoch_has_its_own_order_and_every_image_comes_once():
    orders = [training.keyed_permutation(96, 0, epoch, training._ORDER) for epoch in range(2)]
    assert not orders[0].equal(orders[1])
    assert orders[0].sort().values.equal(torch.arange(96))


def test_learning_rate():
    cyclic, cosine = TrainConfig(lr=0.2), TrainConfig(lr=0.2, schedule="cosine")
    values = [learning_rate(cyclic, t) for t in (0.0, 0.2, 0.4, 0.7, 1.0)]
    assert values == pytest.approx([0, 0.1, 0.2, 0.1, 0])
    assert [learning_rate(cosine, t) for t in (0.0, 0.5, 1.0)] == pytest.approx([0.2, 0.1, 0])
    piecewise = TrainConfig(lr=0.2, schedule="piecewise")
    assert [learning_rate(piecewise, t) for t in (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)] == pytest.approx(
        [0.2, 0.2, 0.02, 0.02, 0.002, 0.002]
    )


def test_seeds_repeat_and_differ(tmp_path, finished):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    train(TINY, tmp_path / "again")
    assert torch.get_rng_state().equal(before)
    assert_same_run(finished, tmp_path / "again")
    other = open_run(replace(TINY, seed=1), tmp_path / "other", None, torch.device("cpu"))
    assert not other.model.state_dict()["model.5.weight"].equal(state_of(finished)["model.5.weight"])


class Killed(BaseException):
    """Nothing in the library catches this: as sudden as a kill, but within the process."""


@pytest.mark.parametrize("call", [0, 2, 3, 6, 7, 9, 12])
def test_killed_around_any_write(tmp_path, monkeypatch, finished, call):
    replace_file, calls = os.replace, iter(range(1000))

    def kill_at(*names):
        number = next(calls)
        if number == call and call % 2:
            raise Killed
        replace_file(*names)
        if number == call:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, "replace", kill_at)
        with pytest.raises(Killed):
            train(TINY, tmp_path, checkpoint_every=0)
    train(TINY, tmp_path)
    assert_same_run(finished, tmp_path)


def test_sigkill_mid_epoch_twice(tmp_path):
    """Real processes, killed for real; compared with one that was left alone."""
    config = replace(TINY, epochs=3, train_size=512)
    script = (
        "import sys; from fastat.config import TrainConfig; from fastat.training import train\n"
        f"train({config!r}, sys.argv[1], checkpoint_every=0)"
    )

    def start(folder: Path) -> subprocess.Popen:
        # one thread each: two processes run at a time
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", script, str(folder)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)

    reference = start(tmp_path / "reference")
    folder = tmp_path / "killed"
    for epoch in (0, 1):
        process = start(folder)
        wait_for(process, folder, epoch)
        process.send_signal(signal.SIGKILL)
        assert process.wait(60) == -signal.SIGKILL
        state = load_checkpoint(folder / "checkpoint.pt")
        assert (state["epoch"], state["step"] > 0) == (epoch, True)
    assert start(folder).wait(120) == 0
    assert reference.wait(120) == 0
    assert_same_run(tmp_path / "reference", folder)


def wait_for(process: subprocess.Popen, folder: Path, epoch: int) -> None:
    """Until the run is some steps into the epoch."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "checkpoint.pt").exists():
            state = load_checkpoint(folder / "checkpoint.pt")
            if state["epoch"] == epoch and 2 <= state["step"] <= 8:
                return
        time.sleep(0.002)
    pytest.fail(f"the run did not come to epoch {epoch}: it ended with {process.poll()}")


def test_ctrl_c_finishes_the_step_and_saves(tmp_path, monkeypatch, finished):
    step, calls = training._train_step, iter(range(100))

    def interrupted(run, index):
        if next(calls) == 4:
            signal.raise_signal(signal.SIGINT)
        step(run, index)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, tmp_path)
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == (1, 2)
    assert not load_network(tmp_path).finished
    train(TINY, tmp_path)
    assert_same_run(finished, tmp_path)


def test_interrupts_deferred():
    done = []

    def interrupted_block() -> None:
        with interrupts_deferred():
            signal.raise_signal(signal.SIGINT)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        interrupted_block()
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(ZeroDivisionError), interrupts_deferred():
        _ = 1 / 0


def test_another_configuration_is_refused(finished):
    with pytest.raises(ValueError, match=r"another configuration \(epochs: 2 -> 5; lr: 0.1 -> 0.3\)"):
        train(replace(TINY, epochs=5, lr=0.3), finished)


def test_a_finished_run_is_loaded_not_trained(finished, monkeypatch):
    monkeypatch.setattr(training, "_train_step", None)
    before = (finished / "checkpoint.pt").read_bytes()
    network = train(TINY, finished)
    assert network.finished
    assert (finished / "checkpoint.pt").read_bytes() == before
    assert network.model.state_dict()["model.5.weight"].equal(state_of(finished)["model.5.weight"])


def test_load_network(finished):
    network = load_network(finished, "cpu")
    assert network.title == "digits"
    assert network.classes == tuple("0123456789")
    assert network.config == TINY
    assert not network.model.training
    assert network.finished
    x = data.load("digits").test.pixels()[:4]
    assert network.model(x).equal(train(TINY, finished).model(x))


def test_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    step = training._train_step

    def explode(run, index):
        step(run, index)
        if run.global_step == 4:
            run.losses[run.step] = float("nan")

    monkeypatch.setattr(training, "_train_step", explode)
    with pytest.raises(FloatingPointError, match="the loss is nan in step 2 of epoch 2"):
        train(TINY, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_a_training_set_smaller_than_the_batch_is_one_batch(tmp_path):
    network = train(replace(TINY, train_size=20, epochs=1), tmp_path)
    assert network.history[0]["steps"] == 1


def test_bf16_on_a_cpu(tmp_path):
    network = train(replace(TINY, precision="bf16", epochs=1, train_size=64), tmp_path)
    assert next(network.model.parameters()).dtype == torch.float32
    assert network.history[0]["train"]["loss"] > 0


def test_label_noise_is_in_the_training_set_alone(tmp_path):
    run = open_run(replace(TINY, label_noise=0.25), tmp_path / "noisy", None, torch.device("cpu"))
    clean = open_run(TINY, tmp_path / "clean", None, torch.device("cpu"))
    assert int((run.train_set.labels != clean.train_set.labels).sum()) == 24
    assert run.train_set.images.equal(clean.train_set.images)
    assert run.monitor_set.labels.equal(clean.monitor_set.labels)


def test_a_run_saved_before_a_field_existed_continues(tmp_path, finished):
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    saved = json.loads((tmp_path / "config.json").read_text())
    for field in ("protocol", "label_noise", "width"):
        del saved[field]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    open_run(TINY, tmp_path, None, torch.device("cpu"))
    assert json.loads((tmp_path / "config.json").read_text())["protocol"] == "pgd-at"
    assert differing_fields(saved, replace(TINY, width=8)) == ["width: None -> 8"]


def test_measurements_are_part_of_the_run_and_of_its_resumption(tmp_path, monkeypatch):
    config = replace(TINY, epochs=5)

    def measure(model):
        return {"weight": model.model[5].weight.sum().item()}

    whole = train(config, tmp_path / "whole", measure=measure, measure_every=2)
    assert [bool(row["measured"]) for row in whole.history] == [False, True, False, True, True]
    assert whole.history[-1]["measured"] == measure(whole.model)
    step, calls = training._train_step, iter(range(100))

    def killed(run, index):
        if next(calls) == 7:
            raise Killed
        step(run, index)

    with monkeypatch.context() as patched:
        patched.setattr(training, "_train_step", killed)
        with pytest.raises(Killed):
            train(config, tmp_path / "killed", measure=measure, measure_every=2)
    train(config, tmp_path / "killed", measure=measure, measure_every=2)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    with pytest.raises(ValueError, match="measure_every must be at least 1, got 0"):
        train(config, tmp_path / "other", measure_every=0)
