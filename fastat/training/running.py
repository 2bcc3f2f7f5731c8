"""A run from where it stands to its end, with what is shown and told of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastat.support.distributed import Group, rank_of
from fastat.training.checkpoint import as_network
from fastat.training.config import ConfigError
from fastat.training.event_log import EventLog
from fastat.training.loop import Listeners, StepReport, train_epochs
from fastat.training.network import CHECKPOINT, Network
from fastat.training.progress import training_display
from fastat.training.run import Run, open_run
from fastat.training.task import Task


@dataclass(frozen=True)
class Watching:
    """What is shown and told of a run while it goes on, and how often it is saved; see :func:`fastat.train`.

    Raises:
        ValueError: a value is out of its range.
    """

    quiet: bool = False
    checkpoint_every: float = 300.0
    tensorboard: bool = False
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None
    measure_every: int = 1
    on_epoch: Callable[[dict[str, Any]], object] | None = None
    on_step: Callable[[StepReport], object] | None = None

    def __post_init__(self) -> None:
        if self.measure_every < 1:
            raise ValueError(f"measure_every must be at least 1, got {self.measure_every}")
        if not self.checkpoint_every >= 0:
            raise ConfigError("checkpoint_every", f"checkpoint_every must be at least 0, got {self.checkpoint_every}")
        for name in ("measure", "on_epoch", "on_step"):
            if (value := getattr(self, name)) is not None and not callable(value):
                raise TypeError(f"{name} must be a function, got {value!r}")


def trained(
    task: Task, folder: Path, device: torch.device, group: Group | None, graph: bool, watching: Watching
) -> tuple[Network, nn.Module]:
    """Does the task, or what is left of it, and returns the network that it selects, and the one that has learned.

    The caller holds the folder, by :func:`fastat.training.holding.held`.

    Raises:
        ValueError: as :func:`fastat.training.run.open_run`.
    """
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        run = open_run(task, folder, device, group, graph)
        found = _train(run, watching)
    return dataclasses.replace(found, test=task.test), run.learner.model


def _train(run: Run, watching: Watching) -> Network:
    group, epochs = run.learner.place.group, run.schedule.epochs
    first = rank_of(group) == 0
    total = epochs * run.images.steps_per_epoch
    with training_display(epochs, total, run.state.step, quiet=watching.quiet or not first) as display:
        if run.again:
            display.say(f"{run.folder.path} has no {CHECKPOINT}: the run starts again, from its first step")
        if run.state.step == 0:
            for found in run.state.current.findings:
                display.finding(found)
        elif not run.over:
            display.say(f"continues after {run.state.step:,} of {total:,} steps")
        else:
            why = f", stopped early: {run.state.stopped}" if run.state.stopped else ""
            display.say(f"{run.folder.path} holds this run, finished after {run.state.epoch} epochs{why}")
        log = EventLog(run.folder.path, run.state.history) if watching.tensorboard and first else None
        told = [each for each in (None if log is None else log.write, watching.on_epoch) if each is not None]
        listeners = Listeners(
            epoch=told if first else [],
            step=watching.on_step if first else None,
            measure=watching.measure if first else None,
            measure_every=watching.measure_every,
        )
        try:
            train_epochs(run, display, listeners, watching.checkpoint_every)
        finally:
            run.learner.exchange.close()
            if log is not None:
                log.close()
    if group is not None:
        dist.barrier(group)  # the first process has written the network that all read now
    return as_network(run.folder, run.learner, run.state)
