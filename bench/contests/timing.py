"""Time in turns: in each round every contender does the same work once, so that whatever else the machine is doing
meets all of them, and ratios are taken within a round.

Host clock on the CPU, events on CUDA. One measurement is a sweep over several input sets that together exceed the
cache; a round is one sweep per contender.
"""

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

MOST_ROUNDS = 200
LEAST_ROUNDS = 5
FIRST_ROUNDS = 3
"""Of everyone, where only some go on."""
SHORTEST_SWEEP = 200e-6
"""A sweep shorter than this is repeated: the clock and the event have a cost of their own."""

Work = Callable[[], object]
Finalists = Callable[[dict[str, list[float]]], set[str]]
"""From everyone's times so far, those who are timed further."""


def cache_bytes(device: torch.device) -> int:
    """Size of the last-level cache."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max((int(p.read_text().strip().removesuffix("K")) * 1024 for p in sizes), default=32 << 20)


def sets_beyond_cache(bytes_of_set: int, device: torch.device) -> int:
    """How many input sets it takes to fill the cache twice; at least two."""
    return max(2, -(-2 * cache_bytes(device) // max(1, bytes_of_set)))


def in_turns(
    contenders: dict[str, Callable[..., Any]],
    sets: Sequence[tuple[Any, ...]],
    device: torch.device,
    *,
    in_place: bool,
    captured: bool,
    seconds: float,
    end: float,
    finalists: Finalists | None = None,
) -> tuple[dict[str, list[float]], dict[str, Exception]]:
    """Seconds per call of every contender, one entry per round; and those that failed, with the error.

    Rounds go on for so many seconds, and for :data:`LEAST_ROUNDS` unless ``end``, by time.monotonic, comes before.
    With ``finalists``, everyone has :data:`FIRST_ROUNDS`, and the time is that of those who go on from there.
    """
    originals = [s[0].clone() for s in sets] if in_place else []

    def restore() -> None:
        for s, original in zip(sets, originals, strict=False):
            s[0].copy_(original)

    clock = _cuda_seconds if device.type == "cuda" else _host_seconds
    shortest = math.inf
    sweeps: dict[str, Work] = {}
    failed: dict[str, Exception] = {}
    for name, contender in contenders.items():
        try:
            work = _sweep(contender, sets)
            seconds_of_one = _warm_up(work, restore, clock)
            if captured and device.type == "cuda":
                work = _capture(work)
                seconds_of_one = clock(work, 1)
            sweeps[name] = work
            shortest = min(shortest, seconds_of_one)
        except Exception as error:  # of a capture or of a rival: its reason not to be timed
            failed[name] = error
    # In-place work must not be repeated within a measurement: a second step from the same point is another task.
    repeats = 1 if in_place else max(1, round(SHORTEST_SWEEP / max(shortest, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in sweeps}
    names, order = list(sweeps), random.Random(0)
    least, enough = LEAST_ROUNDS, time.monotonic() + seconds
    gc.disable()
    try:
        for turn in range(MOST_ROUNDS):
            if finalists and turn == FIRST_ROUNDS:
                going_on = finalists(times)
                names = [name for name in names if name in going_on]
                least, enough = turn + LEAST_ROUNDS, time.monotonic() + seconds
            order.shuffle(names)  # who comes after whom changes what the cache holds
            for name in names:
                restore()
                times[name].append(clock(sweeps[name], repeats) / (repeats * len(sets)))
            now = time.monotonic()
            if now > end or (turn + 1 >= least and now > enough):
                break
    finally:
        gc.enable()
    return times, failed


def _warm_up(work: Work, restore: Work, clock: Callable[[Work, int], float]) -> float:
    """Lazy initialization, autotuning and the allocator's first requests; once is enough for work that takes long.
    Returns the seconds of the last time."""
    start = time.perf_counter()
    for _ in range(3):
        restore()
        seconds = clock(work, 1)
        if time.perf_counter() - start > 0.3:
            break
    return seconds


def _sweep(contender: Callable[..., Any], sets: Sequence[tuple[Any, ...]]) -> Work:
    def work() -> None:
        for inputs in sets:
            contender(*inputs)

    return work


def _capture(work: Work) -> Work:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _host_seconds(work: Work, repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    return time.perf_counter() - start


def _cuda_seconds(work: Work, repeats: int) -> float:
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) * 1e-3


def median_seconds(work: Work, device: torch.device, repeats: int = 1, rounds: int = 5) -> float:
    """Of one call, when it is alone: the median of some rounds of so many calls, after one to warm up."""
    clock = _cuda_seconds if device.type == "cuda" else _host_seconds
    work()
    return statistics.median(clock(work, repeats) / repeats for _ in range(rounds))
