"""Time in turns: in each round every contender does the same work once, so that whatever else the machine is doing
meets all of them, and ratios are taken within a round.

Host clock on the CPU, events on CUDA. One measurement is a sweep over several input sets that together exceed the
cache; a round is one sweep per contender.
"""

import gc
import math
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

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


def ceilings(device: torch.device) -> dict[str, float]:
    """A large copy, in bytes read plus written per second; on CUDA also a bf16 product, in operations per second."""
    size = 1 << (30 if device.type == "cuda" else 26)
    source = torch.rand(size // 4, device=device)
    target = torch.empty_like(source)
    found = {"copy_bytes_per_s": 2 * size / median_seconds(lambda: target.copy_(source), device, 3)}
    if device.type == "cuda":
        work, flop = product(device, torch.bfloat16)
        found["bf16_flop_per_s"] = flop / median_seconds(work, device, 5)
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def product(device: torch.device, dtype: torch.dtype) -> tuple[Work, int]:
    """A large matrix product, and its operations."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b, 2 * n**3


def environment(device: torch.device) -> dict[str, object]:
    """What the numbers depend on, without naming the machine."""
    facts: dict[str, object] = {
        "device": device_name(device),
        "kind": device.type,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
    if device.type == "cuda":
        facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return facts


def device_name(device: torch.device) -> str:
    """The model of the GPU or the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "CPU")


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    info = Path("/proc/cpuinfo")
    words = set(info.read_text().split()) if info.exists() else set()
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def seeded(device: torch.device, seed: int) -> torch.Generator:
    """A generator on the device."""
    return torch.Generator(device).manual_seed(seed)


def rand(shape: Sequence[int], device: torch.device, seed: int) -> Tensor:
    """Uniform on [0, 1), float32."""
    return torch.rand(tuple(shape), device=device, generator=seeded(device, seed))


def randn(shape: Sequence[int], device: torch.device, seed: int) -> Tensor:
    """Standard normal, float32."""
    return torch.randn(tuple(shape), device=device, generator=seeded(device, seed))
