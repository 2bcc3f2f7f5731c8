"""Interrupts that wait for the end of a step: Ctrl-C, and the signal by which schedulers end a job."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, NoReturn


class Terminated(KeyboardInterrupt):
    """SIGTERM, taken like Ctrl-C."""


@contextmanager
def termination_raises(wanted: bool = True) -> Iterator[None]:
    """Within the block SIGTERM raises :class:`Terminated`, where it would end the process and in its main thread; in
    processes that this one forks it ends them."""
    if not wanted or not _in_main_thread() or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def interrupts_deferred(wanted: bool = True) -> Iterator[None]:
    """Holds Ctrl-C back until the block is done, then raises KeyboardInterrupt: weights are never half updated.

    Likewise SIGTERM within :func:`termination_raises`. Python delivers signals to the main thread only; in another one,
    if not wanted, and where Ctrl-C is ignored (as shells have it for jobs in the background) this does nothing.
    """
    if not wanted or not _in_main_thread():
        yield
        return
    held = {}
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        held[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    if signal.getsignal(signal.SIGTERM) is _terminate:
        held[signal.SIGTERM] = _terminate
    seen: set[int] = set()

    def remember(number: int, frame: FrameType | None) -> None:
        seen.add(number)

    with ExitStack() as restored:
        for number, before in held.items():
            restored.callback(_restore, number, signal.SIG_DFL if before is None else before)
            signal.signal(number, remember)
        yield
    if seen:
        raise Terminated if signal.SIGTERM in seen else KeyboardInterrupt


def _restore(number: int, handler: Any) -> None:
    try:
        signal.signal(number, handler)
    except BaseException:  # of another signal, which came before this one's handler was set
        signal.signal(number, handler)
        raise


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _ends_forks() -> None:
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) is _terminate:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


os.register_at_fork(after_in_child=_ends_forks)
