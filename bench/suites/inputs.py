"""Random inputs, the same on every run and for every contender."""

from collections.abc import Sequence

import torch
from torch import Tensor


def seeded(device: torch.device, seed: int) -> torch.Generator:
    """A generator on the device."""
    return torch.Generator(device).manual_seed(seed)


def rand(shape: Sequence[int], device: torch.device, seed: int) -> Tensor:
    """Uniform on [0, 1), float32."""
    return torch.rand(tuple(shape), device=device, generator=seeded(device, seed))


def randn(shape: Sequence[int], device: torch.device, seed: int) -> Tensor:
    """Standard normal, float32."""
    return torch.randn(tuple(shape), device=device, generator=seeded(device, seed))


def labels(count: int, classes: int, device: torch.device, seed: int) -> Tensor:
    """Uniform labels, int64."""
    return torch.randint(classes, (count,), device=device, generator=seeded(device, seed))
