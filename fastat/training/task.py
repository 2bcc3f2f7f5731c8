"""What a run does, as objects: made from a configuration, or of what a caller passed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fastat.data import AnyDataset, Augmentation
from fastat.protocols import Protocol
from fastat.training.record import Record
from fastat.training.schedules import Schedule


@dataclass(frozen=True, eq=False)
class Task:
    """What a run does.

    Attributes:
        model: the network before its first step, on the CPU or where it is.
        protocol: what is attacked by and descended.
        train_set: what it learns from.
        val_set: what it is watched on, or None.
        augmentation: how images are changed on their way.
        optimizer: makes that of the model, once it is where it will be.
        schedule: learning rates and momentum over the run.
        record: what is written down of it; its settings are the run's.
        caller: digests of what the configuration does not say: images, a front.
        front: what comes before the network; None for nothing.
        test: what the network is to be measured on, or None.
        notes: what is worth to know before it starts: of what, and what.
    """

    model: nn.Module
    protocol: Protocol
    train_set: AnyDataset
    val_set: AnyDataset | None
    augmentation: Augmentation
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    schedule: Schedule
    record: Record
    caller: Mapping[str, str]
    front: nn.Module | None = None
    test: AnyDataset | None = None
    notes: Sequence[tuple[str, str]] = ()
