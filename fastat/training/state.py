"""Where a run stands: all that changes while it trains, beside the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from fastat.training.monitors import Watch
from fastat.training.step import Marks


@dataclass
class Epoch:
    """The epoch under way.

    Attributes:
        marks: what its steps wrote down.
        step: number of its finished steps.
        seconds: time spent on them.
        findings: what the monitors saw.
        averaged: whether it is in the average "swa" already.
    """

    marks: Marks
    step: int = 0
    seconds: float = 0.0
    findings: list[dict[str, Any]] = field(default_factory=list)
    averaged: bool = False


@dataclass
class State:
    """Where a run stands.

    Attributes:
        current: the epoch under way.
        history: the lines of metrics.jsonl, one per finished epoch.
        epoch: number of finished epochs.
        averaged: number of epochs in the average "swa".
        watch: the memory of the monitor of catastrophic overfitting.
        sound: the weights of the last sound probe, kept where a collapse rolls the run back.
        readable: whether a checkpoint of this process has been read back.
        stopped: why the run is over before its last epoch; empty while it is not.
    """

    current: Epoch
    history: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    averaged: int = 0
    watch: Watch = field(default_factory=Watch)
    sound: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    readable: bool = False

    @property
    def step(self) -> int:
        """Number of finished steps of the whole run."""
        return self.epoch * len(self.current.marks.losses) + self.current.step


def new_state(steps_per_epoch: int, device: torch.device) -> State:
    """That of a run that has not begun."""
    losses, hits = (torch.zeros(steps_per_epoch, dtype=torch.float32, device=device) for _ in range(2))
    return State(Epoch(Marks(losses, hits)))


def start_epoch(state: State) -> None:
    """Begins the next epoch; its marks stay where they are, for a recorded step writes there."""
    marks = state.current.marks
    marks.losses.zero_()
    marks.hits.zero_()
    state.current = Epoch(marks)
