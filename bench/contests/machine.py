"""The machine that the numbers come from: what it is, and what it can do at best."""

import os
import platform
import time
from pathlib import Path

import torch

from bench.contests.timing import Work, median_seconds


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


def now(device: torch.device) -> float:
    """Seconds on a clock, when the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
