"""Ends to a run from within its process, as sudden as a kill, and what must be the same after one."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fastat.support import files as checkpoint
from fastat.support.files import load_checkpoint
from fastat.training import loop as training
from fastat.training import train_configured


class Killed(BaseException):
    """Nothing in the library catches this."""


def kill_at_write(monkeypatch, call: int) -> None:
    """Dies at the file of this number, counted from 0: before it takes its name if the number is odd, else after."""
    replace_file, calls = os.replace, iter(range(1000))

    def dying(*names):
        number = next(calls)
        if number == call and call % 2:
            raise Killed
        replace_file(*names)
        if number == call:
            raise Killed

    monkeypatch.setattr(checkpoint.os, "replace", dying)


def kill_at_step(monkeypatch, call: int) -> None:
    """Dies instead of the training step of this number, counted from 0."""
    take_step, calls = training.take_step, iter(range(10_000))

    def dying(run, batch):
        if next(calls) == call:
            raise Killed
        take_step(run, batch)

    monkeypatch.setattr(training, "take_step", dying)


def signal_as_workers_end(monkeypatch) -> None:
    """SIGTERM comes in a method that is called as an object goes, whose exceptions Python drops."""
    ends = _MultiProcessingDataLoaderIter._shutdown_workers

    def ending(self) -> None:
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            signal.raise_signal(signal.SIGTERM)
        ends(self)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_shutdown_workers", ending)


def is_alive(process: int) -> bool:
    """Whether it runs: not one that is over and that nobody has asked about."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_resumes(monkeypatch, config, folder, at: int) -> None:
    """A run of this configuration that dies instead of a step ends as one that is left alone."""
    train_configured(config, folder / "whole")
    with monkeypatch.context() as patched:
        kill_at_step(patched, at)
        with pytest.raises(Killed):
            train_configured(config, folder / "killed", checkpoint_every=0)
    train_configured(config, folder / "killed")
    assert_same_run(folder / "whole", folder / "killed")


def assert_same_run(one: Path, other: Path) -> None:
    """Equal to the bit, and the same metrics apart from the clock."""
    first, second = state_of(one), state_of(other)
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    assert metrics(one) == metrics(other)


def metrics(folder: Path) -> list[dict]:
    """The lines of metrics.jsonl without what the clock decides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["images_per_second"]
    return rows


def state_of(folder: Path) -> dict[str, Tensor]:
    """Weights, statistics, their average, the optimizer's state and the carried perturbation of the last checkpoint."""
    state = load_checkpoint(folder / "checkpoint.pt")
    found = dict(state["model"])
    found |= {f"average {name}": value for name, value in (state["average"] or {}).items()}
    for index, buffers in state["optimizer"]["state"].items():
        found |= {f"{name} {index}": torch.as_tensor(value) for name, value in buffers.items()}
    return found | ({"delta": state["delta"]} if isinstance(state["delta"], torch.Tensor) else {})
