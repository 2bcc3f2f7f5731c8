"""Training in several processes: the global batch, the same random numbers, one writer.

In float64, where the processes and one alone agree to many digits if they do the same work.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastat.support.files import load_checkpoint
from fastat.training import ConfigError, default_config, open_configured, train_configured

FLAGS = [
    "--model", "mlp", "--width", "32", "--epochs", "1", "--train-size", "96", "--batch-size", "24", "--attack-steps",
    "3", "--val-size", "15", "--eval-size", "20",
]  # fmt: skip


DOUBLE = str(Path(__file__).parents[1] / "double.py")


def arguments(folder: Path, protocol: str, **changes) -> list[str]:
    flags = [text for name, value in changes.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["train", protocol, *flags, *FLAGS, "--out", str(folder), "--device", "cpu"]


def torchrun(*program: str, processes: int = 2) -> str:
    """Runs a program under torchrun and returns what it printed."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *program,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def alone(folder: Path, protocol: str, **changes) -> None:
    """The same training in this process."""
    config = default_config(
        "digits", protocol, model="mlp", width=32, epochs=1, train_size=96, batch_size=24, attack_steps=3, val_size=15,
        eval_size=20, **changes,
    )  # fmt: skip
    train_configured(config, folder, device="cpu")


def assert_close(one: Path, other: Path) -> None:
    first, second = (load_checkpoint(folder / "checkpoint.pt") for folder in (one, other))
    for name, weight in first["model"].items():
        assert weight.dtype == torch.float64 or name in ("mean", "std")
        torch.testing.assert_close(weight, second["model"][name], rtol=0, atol=1e-10)
    torch.testing.assert_close(first["losses"], second["losses"], rtol=1e-6, atol=0)  # kept in float32
    rows = [json.loads((folder / "metrics.jsonl").read_text()) for folder in (one, other)]
    assert rows[0]["val"] == rows[1]["val"]
    assert rows[0]["train"]["adversarial"] == rows[1]["train"]["adversarial"]
    assert (first["delta"] is None) == (second["delta"] is None)
    if first["delta"] is not None:
        torch.testing.assert_close(first["delta"], second["delta"], rtol=0, atol=1e-10)


L2 = {"norm": "l2", "eps": 0.5}
RUNS = {
    "pgd-at": {},
    "hr": {"alpha": 0.1, **L2},
    "bat": {"loss": "trades", "attack": "pgd-kl", **L2},
    "free": {"replays": 3, **L2},
    "mart": {"awp": 0.01, "average": "ema", **L2},
    "gradalign": {"average": "swa"},
    "trades": {},
}


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """The folder of all these runs, trained by two processes one after the other, and what they printed."""
    root = tmp_path_factory.mktemp("two")
    lines = [arguments(root / protocol, protocol, **changes) for protocol, changes in RUNS.items()]
    return root, torchrun(DOUBLE, json.dumps(lines))


@pytest.mark.parametrize("protocol", RUNS)
def test_two_processes_train_like_one(tmp_path, in_double, by_two, protocol):
    root, shown = by_two
    alone(tmp_path, protocol, **RUNS[protocol])
    assert_close(tmp_path, root / protocol)
    assert shown.count("epoch 1/1") == len(RUNS)  # one of them reports, evaluates and writes
    assert (root / protocol / "results.json").exists()


def test_three_processes_and_a_batch_that_they_cannot_share(tmp_path, in_double):
    torchrun(DOUBLE, json.dumps([arguments(tmp_path / "three", "pgd-at")]), processes=3)
    alone(tmp_path / "one", "pgd-at")
    assert_close(tmp_path / "one", tmp_path / "three")


def test_the_command_itself_runs_under_torchrun(tmp_path):
    """In float32, where the first step is the same but for the rounding of its loss; later ones need not be."""
    shown = torchrun("-m", "fastat", *arguments(tmp_path / "two", "pgd-at", **L2))
    assert shown.count("epoch 1/1") == 1
    assert json.loads((tmp_path / "two" / "environment.json").read_text())["processes"] == "2"
    alone(tmp_path / "one", "pgd-at", **L2)
    losses = [load_checkpoint(tmp_path / name / "checkpoint.pt")["losses"] for name in ("one", "two")]
    torch.testing.assert_close(losses[1][0], losses[0][0], rtol=1e-4, atol=0)


class TwoProcesses:
    """Enough of a process group for what is checked before it is used."""

    def size(self) -> int:
        return 2

    def rank(self) -> int:
        return 0


def test_what_does_not_fit_the_processes_is_said(tmp_path):
    config = default_config("digits", batch_size=33)
    with pytest.raises(ConfigError, match="batch_size must be a multiple of the number of processes, 2, got 33"):
        open_configured(config, tmp_path, None, torch.device("cpu"), TwoProcesses())
    with pytest.raises(ConfigError, match="sync_bn must be off on cpu: torch has it for CUDA only"):
        open_configured(default_config("digits", sync_bn=True), tmp_path, None, torch.device("cpu"))
