"""Samples that worker processes read, in batches."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

_GRACE = 30
"""Seconds after SIGTERM in which a worker waits for the main process to end it."""


def read_batches(
    samples: TorchDataset[Any], batch_size: int, workers: int, device: torch.device | None
) -> Iterator[Any]:
    """Batches of the samples in their order; of an item that is an exception, that is raised.

    Of an error that a worker raises, torch would make a text with the whole traceback.

    Args:
        workers: processes; 0 for none.
        device: where the batches will go.
    """
    loader = DataLoader(
        samples,
        batch_size,
        collate_fn=_first_error_or_batch,
        generator=torch.Generator(),  # else the loader draws a seed for its workers from torch's global generator
        num_workers=workers,
        pin_memory=device is not None and device.type == "cuda",
        worker_init_fn=_outlive_signals if workers else None,
    )
    batches = iter(loader)
    try:
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        del batches  # now, not when the last traceback is gone: it ends the workers


def _outlive_signals(_: int) -> None:
    """Ctrl-C and SIGTERM often reach a whole group of processes. The main one may have a step to finish, in which a
    worker that dies is an error: so they end it, and it its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE))


def _first_error_or_batch(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, Exception)), None) or default_collate(items)
