"""A contest: several ways to compute the same thing, checked, then timed in turns on the same inputs.

The shared machinery of the suites ``bench_*.py``. Ours runs under two names, "ours" and "ours again": how far apart the
two come out is the noise of the whole case.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from bench.contests import timing

OURS, AGAIN = "ours", "ours again"
NO_TIME = "no time left"
CHECKING, TIMING = 0.5, 0.9
"""When checking and timing end, as shares of the time that a contest has."""

Inputs = tuple[Any, ...]
Contender = Callable[..., Any]


class NotHere(Exception):
    """A contender cannot run, and why."""


@dataclass(frozen=True)
class Contest:
    """One case of one row, ready to be timed.

    Attributes:
        make_inputs: builds the i-th set of random inputs; its first element is a tensor.
        contenders: by name, a function of one set of inputs; the first is ours.
        check: raises AssertionError if what a contender made of the inputs is wrong; returns facts to report beside its
            time. It is called with the contender's name, its result and untouched inputs.
        missing: contenders that cannot run, with the reason.
        in_place: contenders may overwrite the first of their inputs; it is restored before each round.
        bytes: fewest bytes of memory one call must move, 0 where that says nothing.
        captured: on CUDA, time replays of a CUDA graph, so that launches from Python do not count.
        seconds: how long to go on measuring; the round under way is finished.
        finalists: who goes on after the first rounds, for that long; None for everyone.
        most_sets: input sets at most, also where more would be needed to exceed the cache.
        threads: torch's threads on the CPU for the checks and the times; None leaves them as they are.
    """

    make_inputs: Callable[[int], Inputs]
    contenders: dict[str, Contender]
    check: Callable[[str, Any, Inputs], dict[str, float] | None]
    missing: dict[str, str] = field(default_factory=dict)
    in_place: bool = False
    bytes: int = 0
    captured: bool = False
    seconds: float = 1.0
    finalists: timing.Finalists | None = None
    most_sets: int = 32
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """Times in seconds by contender (entry i of each is from round i; not all go on to the last), facts by contender,
    who did not run and why.

    ``label`` says which row and case this was.
    """

    times: dict[str, list[float]]
    facts: dict[str, dict[str, float]]
    missing: dict[str, str]
    bytes: int
    label: dict[str, object] = field(default_factory=dict)


def hold(contest: Contest, device: torch.device, end: float = math.inf) -> Outcome:
    """Checks every contender, then times those that are right; done by ``end`` on the clock of time.monotonic.

    Who has not been checked in half of the time until then is missing, and the rounds stop early.

    Raises:
        AssertionError: if ours is wrong. A rival that fails or is wrong is reported as missing, with the reason.
    """
    with _threads(contest.threads):
        return _hold(contest, device, end)


def _hold(contest: Contest, device: torch.device, end: float) -> Outcome:
    start = time.monotonic()
    checked_by, timed_by = (start + share * (end - start) for share in (CHECKING, TIMING))
    first = contest.make_inputs(0)
    facts: dict[str, dict[str, float]] = {}
    missing = dict(contest.missing)
    ready: dict[str, Contender] = {}
    for name, contender in contest.contenders.items():
        if time.monotonic() > checked_by and name != OURS:
            missing[name] = NO_TIME
            continue
        try:
            inputs = tuple(t.clone() if i == 0 else t for i, t in enumerate(first))
            result = contender(*inputs)
            facts[name] = contest.check(name, inputs[0] if result is None else result, first) or {}
            ready[name] = contender
        except Exception as error:  # whatever a rival may raise is its reason not to run; ours must not raise
            if name == OURS:
                raise
            missing[name] = reason(error)
    ready[AGAIN] = ready[OURS]
    facts[AGAIN] = facts[OURS]
    bytes_of_set = sum(t.numel() * t.element_size() for t in first if isinstance(t, Tensor))
    count = min(contest.most_sets, timing.sets_beyond_cache(bytes_of_set, device))
    sets = [first, *(contest.make_inputs(i) for i in range(1, count))]
    times, failed = timing.in_turns(
        ready,
        sets,
        device,
        in_place=contest.in_place,
        captured=contest.captured,
        seconds=contest.seconds,
        end=timed_by,
        finalists=contest.finalists,
    )
    if OURS in failed:
        raise failed[OURS]
    return Outcome(times, facts, missing | {name: reason(error) for name, error in failed.items()}, contest.bytes)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def reason(error: Exception) -> str:
    """An exception as one short line."""
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    if isinstance(error, NotHere):
        text = str(error)
    return text if len(text) <= 160 else text[:157] + "..."


def compiled(function: Contender) -> Contender:
    """``function`` under torch.compile, one specialized graph per shape; compiled when first called."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False, fullgraph=True)
