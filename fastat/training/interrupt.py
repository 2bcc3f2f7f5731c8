"""Keyboard interrupts that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_deferred(wanted: bool = True) -> Iterator[None]:
    """Holds Ctrl-C back until the block is done, then raises KeyboardInterrupt: weights are never half updated.

    Python delivers signals to the main thread only; in another one, if not wanted, and where Ctrl-C is ignored (as
    shells have it for jobs in the background) this does nothing.
    """
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if not wanted or ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    seen = False

    def remember(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if seen:
        raise KeyboardInterrupt
