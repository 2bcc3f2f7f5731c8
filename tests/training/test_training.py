"""The training loop: what a step does, and that a run can be killed at any moment."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from killing import Killed, assert_resumes, assert_same_run, kill_at_step, kill_at_write, metrics, state_of
from training_cases import TINY, protocol_of

from fastat import data
from fastat.attacks import pgd
from fastat.cli import main
from fastat.data import Split
from fastat.support.files import differences, load_checkpoint
from fastat.support.interrupt import Terminated, interrupts_deferred
from fastat.support.keyed import derive_seed, keyed_permutation
from fastat.training import (
    OptimizerConfig,
    TrainConfig,
    as_fields,
    config_from,
    default_config,
    images,
    load_network,
    open_configured,
    record_of,
    train_configured,
    with_fields,
)
from fastat.training import loop as training
from fastat.training.loop import take_step
from fastat.training.schedules import schedule_of
from fastat.training.step import ATTACK


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A tiny run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train_configured(TINY, folder)
    return folder


def test_run_folder(finished):
    assert sorted(entry.name for entry in finished.iterdir()) == [
        "best.pt", "checkpoint.pt", "config.json", "environment.json", "metrics.jsonl",
    ]  # fmt: skip

    assert config_from(json.loads((finished / "config.json").read_text())) == TINY
    rows = metrics(finished)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert [row["steps"] for row in rows] == [3, 6]
    assert set(rows[0]["val"]) == {"clean", "fgsm", "pgd-20"}
    assert rows[0]["val_images"] == 16


def test_one_step_is_the_textbook(tmp_path):
    config = with_fields(TINY, schedule="cosine", augment="crop-flip", lr=0.05, attack_mode="eval")
    run = open_configured(config, tmp_path / "run", None, torch.device("cpu"))
    before = {name: value.clone() for name, value in run.learner.model.state_dict().items()}
    index = torch.arange(10, 42)
    take_step(run, next(run.images.train_set.batches(index, 32, data.Augmentation("crop-flip", seed=config.run.seed))))
    after = run.learner.model.state_dict()

    # again by hand: same start, the attack in eval mode, one step of SGD with weight decay
    textbook = open_configured(config, tmp_path / "other", None, torch.device("cpu"))
    model = textbook.learner.model
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    batch = textbook.images.train_set.take(index)
    x = data.augment(batch.images, batch.ids, "crop-flip", config.run.seed, 0).float() / 16
    seed = derive_seed(config.run.seed, 0, ATTACK)
    x_adv = pgd(model.eval(), x, batch.labels, config.threat.eps, steps=2, seed=seed, sample_ids=batch.ids)
    loss = F.cross_entropy(model.train()(x_adv), batch.labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    lr = config.optimizer.lr * schedule_of(config.optimizer).rate(0.5 / 6)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        expected = parameter - lr * (gradient + config.optimizer.weight_decay * parameter)
        torch.testing.assert_close(after[name], expected.detach(), rtol=1e-5, atol=1e-7)
    assert float(run.state.current.marks.losses[0]) == pytest.approx(loss.item())


def test_attack_leaves_the_statistics_of_batch_norm_alone_in_eval_mode(tmp_path):
    run = open_configured(with_fields(TINY, attack_mode="eval"), tmp_path, None, torch.device("cpu"))
    take_step(run, next(run.images.train_set.batches(torch.arange(32), 32)))
    counts = [
        int(value) for name, value in run.learner.model.state_dict().items() if name.endswith("num_batches_tracked")
    ]
    assert set(counts) == {1}


def test_every_epoch_has_its_own_order_and_every_image_comes_once():
    orders = [keyed_permutation(96, 0, epoch, images._ORDER) for epoch in range(2)]
    assert not orders[0].equal(orders[1])
    assert orders[0].sort().values.equal(torch.arange(96))


def rates(schedule: str, times: tuple[float, ...], **changes) -> list[float]:
    settings = OptimizerConfig(lr=0.2, schedule=schedule, **changes)
    return [settings.lr * schedule_of(settings).rate(t) for t in times]


def test_learning_rate():
    assert rates("cyclic", (0.0, 0.2, 0.4, 0.7, 1.0)) == pytest.approx([0, 0.1, 0.2, 0.1, 0])
    assert rates("cyclic", (0.0, 0.25, 0.5, 0.75, 1.0), peak=0.5) == pytest.approx([0, 0.1, 0.2, 0.1, 0])
    assert rates("cosine", (0.0, 0.5, 1.0)) == pytest.approx([0.2, 0.1, 0])
    at = (0.0, 0.49, 0.5, 0.74, 0.75, 1.0)
    assert rates("multistep", at) == pytest.approx([0.2, 0.2, 0.02, 0.02, 0.002, 0.002])
    assert rates("multistep", (0.0, 0.1, 0.9), milestones=(0.1,)) == pytest.approx([0.2, 0.02, 0.02])
    assert rates("constant", (0.0, 0.5, 1.0)) == [0.2] * 3


def test_one_cycle_is_that_of_torch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=101, cycle_momentum=False)
    for step in range(101):
        # torch's peak lies on the step 0.3 * 101 - 1
        at = step / 29.3 * 0.3 if step <= 29.3 else 0.3 + 0.7 * (step - 29.3) / 70.7
        assert rates("one-cycle", (at,)) == pytest.approx(theirs.get_last_lr(), rel=1e-6)
        optimizer.step()
        if step < 100:
            theirs.step()


def test_seeds_repeat_and_differ(tmp_path, finished):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    train_configured(TINY, tmp_path / "again")
    assert torch.get_rng_state().equal(before)
    assert_same_run(finished, tmp_path / "again")
    other = open_configured(with_fields(TINY, seed=1), tmp_path / "other", None, torch.device("cpu"))
    assert not other.learner.model.state_dict()["model.5.weight"].equal(state_of(finished)["model.5.weight"])


@pytest.mark.parametrize("call", [0, 1, 3, 4, 7, 10, 11, 12, 13, 16])
def test_killed_around_any_write(tmp_path, monkeypatch, finished, call):
    with monkeypatch.context() as patched:
        kill_at_write(patched, call)
        with pytest.raises(Killed):
            train_configured(TINY, tmp_path, checkpoint_every=0)
    train_configured(TINY, tmp_path)
    assert_same_run(finished, tmp_path)
    assert load_network(tmp_path, which="best").epoch == load_network(finished, which="best").epoch


def test_sigkill_mid_epoch_twice(tmp_path):
    """Real processes, killed for real; compared with one that was left alone."""
    config = with_fields(TINY, epochs=3, train_size=512)
    script = (
        "import sys; from fastat.training import config_from, train_configured\n"
        f"train_configured(config_from({as_fields(config)!r}), sys.argv[1], checkpoint_every=0)"
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


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)], ids=str
)
def test_a_signal_lets_the_step_finish_and_saves(tmp_path, monkeypatch, capsys, finished, ctrl_c, number, raised):
    step, calls = training.take_step, iter(range(100))

    def interrupted(run, batch):
        if next(calls) == 4:
            signal.raise_signal(number)
        step(run, batch)

    with monkeypatch.context() as patched:
        patched.setattr(training, "take_step", interrupted)
        with pytest.raises(raised):
            train_configured(TINY, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "continues" not in capsys.readouterr().out
    state = load_checkpoint(tmp_path / "checkpoint.pt")
    assert (state["epoch"], state["step"]) == (1, 2)
    assert not load_network(tmp_path).finished
    train_configured(TINY, tmp_path)
    assert "continues after 5 of 6 steps" in capsys.readouterr().out
    assert_same_run(finished, tmp_path)


@pytest.fixture
def ctrl_c():
    """SIGINT as a terminal's process has it: one in the background may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_ignored_interrupt_stays_ignored(ctrl_c):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_deferred():
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_interrupts_deferred(ctrl_c):
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
        train_configured(with_fields(TINY, epochs=5, lr=0.3), finished)


def test_a_finished_run_is_loaded_not_trained(finished, monkeypatch):
    monkeypatch.setattr(training, "take_step", None)
    before = (finished / "checkpoint.pt").read_bytes()
    network = train_configured(TINY, finished)
    assert network.finished
    assert (finished / "checkpoint.pt").read_bytes() == before
    assert network.model.state_dict()["model.5.weight"].equal(state_of(finished)["model.5.weight"])


def test_load_network(finished):
    network = load_network(finished, "cpu")
    assert network.title == "digits"
    assert network.classes == tuple("0123456789")
    assert network.record == record_of(TINY)
    assert not network.model.training
    assert network.finished
    x = data.load("digits").test.pixels()[:4]
    assert network.model(x).equal(train_configured(TINY, finished).model(x))


def test_a_training_set_smaller_than_the_batch_is_one_batch(tmp_path):
    network = train_configured(with_fields(TINY, train_size=20, epochs=1), tmp_path)
    assert network.history[0]["steps"] == 1


def test_bf16_on_a_cpu(tmp_path):
    network = train_configured(with_fields(TINY, precision="bf16", epochs=1, train_size=64), tmp_path)
    assert next(network.model.parameters()).dtype == torch.float32
    assert network.history[0]["train"]["loss"] > 0


def test_label_noise_is_in_the_training_set_alone(tmp_path):
    run = open_configured(with_fields(TINY, label_noise=0.25), tmp_path / "noisy", None, torch.device("cpu"))
    clean = open_configured(TINY, tmp_path / "clean", None, torch.device("cpu"))
    assert int((run.images.train_set.labels != clean.images.train_set.labels).sum()) == 24
    assert run.images.train_set.images.equal(clean.images.train_set.images)
    assert run.images.val_set.labels.equal(clean.images.val_set.labels)


def test_a_run_saved_before_a_field_existed_continues(tmp_path, finished):
    (tmp_path / "config.json").write_text((finished / "config.json").read_text())
    saved = json.loads((tmp_path / "config.json").read_text())
    for field in ("protocol", "label_noise", "width"):
        del saved[field]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    open_configured(TINY, tmp_path, None, torch.device("cpu"))
    assert json.loads((tmp_path / "config.json").read_text())["protocol"] == "pgd-at"
    assert differences(as_fields(config_from(saved)), as_fields(with_fields(TINY, width=8))) == ["width: None -> 8"]


def test_measurements_are_part_of_the_run_and_of_its_resumption(tmp_path, monkeypatch):
    config = with_fields(TINY, epochs=5, select="last")

    def measure(model):
        return {"weight": model.model[5].weight.sum().item()}

    whole = train_configured(config, tmp_path / "whole", measure=measure, measure_every=2)
    assert [bool(row["measured"]) for row in whole.history] == [False, True, False, True, True]
    assert whole.history[-1]["measured"] == measure(whole.model)
    with monkeypatch.context() as patched:
        kill_at_step(patched, 7)
        with pytest.raises(Killed):
            train_configured(config, tmp_path / "killed", measure=measure, measure_every=2)
    train_configured(config, tmp_path / "killed", measure=measure, measure_every=2)
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    with pytest.raises(ValueError, match="measure_every must be at least 1, got 0"):
        train_configured(config, tmp_path / "other", measure_every=0)


def test_a_network_with_dropout_is_seeded_and_resumes(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(40) % 2
    np.savez(tmp_path / "images.npz", x_train=images, y_train=labels, x_test=images[:8], y_test=labels[:8])
    config = with_fields(TrainConfig(), 
        data=f"tensors:{tmp_path / 'images.npz'}", model="torchvision:mobilenet_v2", epochs=1, attack_steps=1,
        batch_size=8, val_size=0, lr=0.01,
    )  # fmt: skip
    torch.manual_seed(1)
    assert_resumes(monkeypatch, config, tmp_path, 2)


def test_images_of_the_caller_take_the_place_of_the_dataset(tmp_path: Path) -> None:
    config = default_config("digits", epochs=1, width=4, attack_steps=1, val_size=0, train_size=None)
    whole = data.load("digits")
    some = Split(whole.train.take(torch.arange(256)), whole.test)
    network = train_configured(config, tmp_path / "own", split=some, quiet=True)
    assert network.history[-1]["steps"] == 2
    train_configured(config, tmp_path / "own", split=some, quiet=True)  # finished: the same images are accepted
    scaled = Split(replace(some.train, scale=255), whole.test)
    for other in (None, scaled, Split(whole.train.take(torch.arange(1, 257)), whole.test)):
        with pytest.raises(ValueError, match="other images"):
            train_configured(config, tmp_path / "own", split=other)


def test_images_outside_of_the_box_need_no_box(tmp_path: Path) -> None:
    whole = data.load("digits")
    shifted = replace(whole.train.load(), images=2 * whole.train.load().pixels() - 0.5, scale=1)
    config = default_config("digits", "rs-fgsm", epochs=1, width=4, box=False, eps=0.3, train_size=256)
    seen = []

    def measure(model: torch.nn.Module) -> dict[str, float]:
        x = shifted.pixels()[:64]
        attacked = protocol_of(config).attack(model, x, shifted.labels[:64], seed=0, sample_ids=torch.arange(64))
        seen.append(float(attacked.min()))
        return {}

    train_configured(config, tmp_path, split=Split(shifted, whole.test), measure=measure, quiet=True)
    assert seen[0] < -0.6  # the attack leaves the data's own range


def test_what_stands_in_front_is_in_the_training_and_not_in_the_network(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = default_config("digits", epochs=1, width=4, attack_steps=2, train_size=256)

    class Blank(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 0 * x

    seen = []

    def measure(model: torch.nn.Module) -> dict[str, float]:
        x = torch.rand(8, 1, 8, 8)
        seen.append(float(model(x).std(0).sum()))
        return {}

    network = train_configured(config, tmp_path, front=Blank(), measure=measure, quiet=True)
    assert capsys.readouterr().out == ""
    assert seen == [0.0]  # all images are blank there
    assert float(network.model(torch.rand(8, 1, 8, 8)).std(0).sum()) > 0
    assert float(load_network(tmp_path).model(torch.rand(8, 1, 8, 8)).std(0).sum()) > 0
    with pytest.raises(ValueError, match="behind another front"):
        train_configured(config, tmp_path)
    with pytest.raises(ValueError, match=r"its buffer running_mean changes"):
        train_configured(config, tmp_path / "other", front=torch.nn.BatchNorm2d(1, affine=False))
    with pytest.raises(SystemExit, match="behind a front of its own"):
        main(["evaluate", str(tmp_path)])
    with pytest.raises(ValueError, match="front must have no parameters"):
        train_configured(config, tmp_path / "other", front=torch.nn.Linear(2, 2))
