"""Training on a GPU: every protocol runs, a step does not wait for the device, and a bad one is skipped there."""

import json
import os
import subprocess
import sys

import pytest
import torch

from fastat import data
from fastat.evaluation import evaluate
from fastat.protocols import PROTOCOLS
from fastat.training import TrainConfig, default_config, open_configured, train_configured
from fastat.training.loop import take_step

SMALL = {"epochs": 2, "attack_steps": 3, "train_size": 512, "batch_size": 64, "val_size": 64, "lr": 0.05}
CUDA = torch.device("cuda")


def small(protocol: str, **changes) -> TrainConfig:
    return default_config("digits", protocol, **{**SMALL, **changes})


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_every_protocol_learns(tmp_path, protocol):
    network = train_configured(small(protocol), tmp_path, device="cuda")
    test = data.load("digits").test.to(CUDA)
    found = evaluate(network.model, test.pixels(), test.labels, 0.1, attacks=("fgsm",))
    assert found.accuracy["clean"] > 0.25
    assert network.history[-1]["train"]["skipped"] == 0


CHANGES = [
    {},
    {"awp": 0.01},
    {"average": "ema", "clip_grad": 1.0},
    {"label_smoothing": 0.1, "norm": "l2", "eps": 0.5},
    {"precision": "fp32", "channels_last": "off", "augment": "crop-flip", "cutout": 3},
]


@pytest.mark.parametrize("protocol", ["pgd-at", "n-fgsm", "free", "trades", "mart", "hr", "bat", "gradalign"])
def test_a_step_does_not_wait_for_the_device(tmp_path, protocol):
    for number, changes in enumerate(CHANGES):
        if protocol == "mart" and "label_smoothing" in changes:
            continue
        run = open_configured(small(protocol, **changes), tmp_path / str(number), None, CUDA)
        batch = next(run.images.train_set.batches(torch.arange(64), 64))
        take_step(run, batch)  # the first one allocates, and chooses its algorithms
        run.state.current.step = 1
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            take_step(run, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert bool(run.state.current.marks.losses[:2].isfinite().all())


@pytest.mark.parametrize("protocol", ["pgd-at", "hr", "free"])
def test_a_step_without_a_finite_gradient_is_skipped_on_the_device(tmp_path, protocol):
    run = open_configured(small(protocol, awp=0.01), tmp_path, None, CUDA)
    batch = next(run.images.train_set.batches(torch.arange(64), 64))
    take_step(run, batch)
    run.state.current.step = 1
    before = [value.clone() for value in run.learner.model.state_dict().values() if value.is_floating_point()]
    take_step(run, batch._replace(x=batch.x * float("nan")))
    after = [value for value in run.learner.model.state_dict().values() if value.is_floating_point()]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-7)  # AWP takes its perturbation off by subtraction
    assert run.state.current.marks.losses[:2].isnan().tolist() == [False, True]


def test_first_steps_are_those_of_the_cpu(tmp_path, exact_model):
    config = small("pgd-at", precision="fp32", channels_last="off", epochs=1, train_size=256, eps=0.02)
    for device in ("cpu", "cuda"):
        train_configured(config, tmp_path / device, device=device)
    rows = [json.loads((tmp_path / device / "metrics.jsonl").read_text()) for device in ("cpu", "cuda")]
    assert rows[0]["train"]["loss"] == pytest.approx(rows[1]["train"]["loss"], rel=0.02)


def test_a_stopped_run_goes_on(tmp_path):
    config = small("trades", average="ema", epochs=3)

    def interrupt(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_configured(config, tmp_path, device="cuda", measure=interrupt)
    network = train_configured(config, tmp_path, device="cuda")
    assert len(network.history) == 3


def test_a_compiled_network_trains(tmp_path):
    network = train_configured(small("pgd-at", compile=True, epochs=1), tmp_path, device="cuda")
    assert network.history[0]["train"]["loss"] > 0


@pytest.mark.parametrize("flags", [[], ["--sync-bn"]])
def test_one_process_under_torchrun(tmp_path, flags):
    pytest.importorskip("tyro")
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", "fastat", "train",
        "hr", "--epochs", "1", "--attack-steps", "2", "--train-size", "128", "--val-size", "16", "--eval-size", "20",
        "--device", "cuda", *flags, "--out", str(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "results.json").exists()


def test_all_augmentations_have_the_bits_of_the_cpu(tmp_path):
    dataset = data.load("digits").train
    changed = data.Augmentation("crop-flip", cutout=3, seed=5, epoch=2)
    one = next(dataset.batches(torch.arange(50), 50, changed))
    other = next(dataset.to(CUDA).batches(torch.arange(50), 50, changed))
    assert one.x.equal(other.x.cpu())
