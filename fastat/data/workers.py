"""Samples that worker processes read, in batches."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.sharedctypes import RawValue
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

from fastat.support.interrupt import interrupts_deferred

_SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
_LOOK_EVERY = 1  # second, at which a worker that got SIGTERM looks whether it is still needed


def read_batches(
    samples: TorchDataset[Any], batch_size: int, workers: int, device: torch.device | None
) -> Generator[Any]:
    """Batches of the samples in their order; of an item that is an exception, that is raised.

    Of an error that a worker raises, torch would make a text with the whole traceback.

    Args:
        workers: processes; 0 for none.
        device: where the batches will go.
    """
    done = RawValue("b", 0)  # the workers see it
    end = partial(setattr, done, "value", 1)
    loader = DataLoader(
        samples,
        batch_size,
        collate_fn=_first_error_or_batch,
        generator=torch.Generator(),  # else the loader draws a seed for its workers from torch's global generator
        num_workers=workers,
        pin_memory=device is not None and device.type == "cuda",
        worker_init_fn=partial(_outlive_signals, done) if workers else None,
    )
    batches = None
    atexit.register(end)  # before multiprocessing waits for the workers of an iterator that nobody has closed
    try:
        with _signals_held():
            batches = iter(loader)
        for batch in batches:
            if isinstance(batch, Exception):
                raise batch
            yield batch
    finally:
        end()
        atexit.unregister(end)
        with interrupts_deferred():  # an exception is lost where an object goes
            del batches  # now, not when the last traceback is gone: it ends the workers


@contextmanager
def _signals_held() -> Iterator[None]:
    """For workers that start within: until they have said what to do then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _outlive_signals(done: Any, _: int) -> None:
    """Ctrl-C and SIGTERM often reach a whole group of processes. The main one may have a step to finish, however long
    that takes, in which a worker that dies is an error: so a worker ends when the main one is done with it, or gone."""
    parent = os.getppid()

    def end_if_free(number: int, _: object) -> None:
        if done.value or os.getppid() != parent:
            os._exit(0)  # of an end by a signal torch would make an error in the main process
        signal.alarm(_LOOK_EVERY)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_if_free)
    signal.signal(signal.SIGALRM, end_if_free)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _first_error_or_batch(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, Exception)), None) or default_collate(items)
