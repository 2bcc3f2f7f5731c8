"""A process of a group that is stopped or ends: the others end too, say which one it was, and nothing is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from killing import metrics

from fastat.cli import main
from fastat.support import distributed
from fastat.support.files import load_checkpoint

TRAIN = [
    "-m", "fastat", "train", "--model", "mlp", "--width", "8", "--epochs", "2", "--train-size", "300", "--batch-size",
    "30", "--val-size", "20", "--attack-steps", "2", "--eval-size", "10", "--checkpoint-every", "0", "--device", "cpu",
]  # fmt: skip
MEET = """
import os, signal, sys, torch, torch.distributed as dist
from fastat.support.distributed import torchrun_group
with torchrun_group(torch.device("cpu"), 20) as group:
    dist.all_reduce(torch.zeros(1), group=group)
    if group.rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    elif sys.argv[1] == "fails":
        raise RuntimeError("something else")
    dist.all_reduce(torch.zeros(1), group=group)
"""
FAILED = (1, -signal.SIGABRT)
"""torch's threads have once ended an interpreter that was about to end with 1."""
SILENT = "process {} of {} (counted from 0) has ended, or has not answered for 20 seconds (--timeout): look for its own"


def start(processes: int, *arguments: str) -> list[subprocess.Popen]:
    """What torchrun starts, without its agent, which would wait half a minute for a stopped process to end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "WORLD_SIZE": str(processes),
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *arguments], env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(processes)
    ]  # fmt: skip


def end(processes: list[subprocess.Popen]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("how", "said"), [("waits", SILENT.format(1, 2)), ("fails", "RuntimeError: something else")])
def test_a_stopped_process_ends_the_other(how, said):
    first, stopped = started = start(2, "-c", MEET, how)
    try:
        assert said in first.communicate(timeout=120)[1]
        assert first.returncode in FAILED and stopped.poll() is None
    finally:
        end(started)


def train(folder: Path, processes: int, timeout: int) -> list[subprocess.Popen]:
    return start(processes, *TRAIN, "--out", str(folder), "--timeout", str(timeout))


def wait_for_steps(folder: Path, processes: list[subprocess.Popen]) -> None:
    while all(process.poll() is None for process in processes):
        if (folder / "checkpoint.pt").exists() and load_checkpoint(folder / "checkpoint.pt")["step"] > 2:
            return
        time.sleep(0.01)
    pytest.fail(f"ended: {[process.stderr.read() for process in processes if process.poll() is not None]}")


def train_to_the_end(folder: Path) -> None:
    for process in train(folder, 2, 600):
        assert process.communicate(timeout=300)[1] is not None and process.returncode == 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_to_the_end(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("ends", "number"), [(signal.SIGSTOP, 1), (signal.SIGSTOP, 0), (signal.SIGKILL, 1)])
def test_the_same_command_goes_on(tmp_path, whole, ends, number):
    started = train(tmp_path, 2, 20)
    try:
        wait_for_steps(tmp_path, started)
        started[number].send_signal(ends)
        said = started[1 - number].communicate(timeout=120)[1]
        assert started[1 - number].returncode in FAILED
        assert f"error: {SILENT.format(number, 2)} message. The same command continues" in said
    finally:
        end(started)
    assert load_checkpoint(tmp_path / "checkpoint.pt")["step"] > 0
    train_to_the_end(tmp_path)
    one, other = (load_checkpoint(folder / "checkpoint.pt") for folder in (tmp_path, whole))
    assert one["epoch"] == other["epoch"] == 2
    assert metrics(tmp_path) == metrics(whole)
    assert all(one["model"][name].equal(weight) for name, weight in other["model"].items())


class Store:
    """Of a group whose processes of these numbers have answered."""

    def __init__(self, *answered: int) -> None:
        self.answered = {str(number) for number in answered}

    def set_timeout(self, timeout) -> None:
        pass

    def set(self, key: str, value: str) -> None:
        self.answered.add(key)

    def check(self, keys: list[str]) -> bool:
        return set(keys) <= self.answered


class Gone(Store):
    def set(self, key: str, value: str) -> None:
        raise torch.distributed.DistNetworkError("broken pipe")


@pytest.mark.parametrize(
    ("store", "said"),
    [
        (Store(0, 2), "process 3 of 4 (counted from 0) has ended"),
        (Store(0), "one of the processes 2, 3 of 4 (counted from 0) has ended"),
        (Store(0, 2, 3), "one of the processes that torchrun started of 4"),
        (Gone(), "one of the processes 0, 2, 3 of 4"),
    ],
)
def test_the_silent_are_those_that_have_not_answered(monkeypatch, store, said):
    monkeypatch.setattr(distributed, "_GRACE", 0.05)
    assert said in distributed._silence(store, 1, 4, 7)


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf"])
def test_a_timeout_that_is_none(timeout):
    with pytest.raises(SystemExit, match=r"error: --timeout: timeout must be above 0 and at most 1e\+07, got"):
        main(["train", "--timeout", timeout])
