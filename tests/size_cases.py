"""Sizes and boxes of every shape that fits inputs [B, C, H, W], for the CPU and the CUDA tests."""

import torch

B, C, H, W = 4, 3, 5, 6

SIZES = {
    "one": (),
    "one in a tensor": (1, 1, 1, 1),
    "per sample": (B,),
    "per sample, in full": (B, 1, 1, 1),
    "per channel": (C, 1, 1),
    "per column": (W,),
    "per pixel": (1, 1, H, W),
    "per pixel of each sample": (B, 1, H, W),
    "per element": (C, H, W),
    "all": (B, C, H, W),
}
OF_SAMPLES = ("one", "one in a tensor", "per sample", "per sample, in full")


def size_of(name, low, high, dtype=torch.float32, seed=0):
    """A size of that shape with entries in [low, high)."""
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(SIZES[name], generator=g, dtype=torch.float64).to(dtype)


def in_full(size):
    """The same numbers, one for each element."""
    return (size.view(-1, 1, 1, 1) if size.shape == (B,) else size).expand(B, C, H, W)


def problem(dtype=torch.float32, seed=0):
    """x_adv, a gradient and x."""
    g = torch.Generator().manual_seed(seed)
    x, noise, grad = (torch.randn(B, C, H, W, generator=g, dtype=torch.float64) for _ in range(3))
    x = x.sigmoid()
    return (x + 0.05 * noise).to(dtype), grad.to(dtype), x.to(dtype)
