"""Results on the grid of 8-bit images, inside the ball and the box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastat.kernels.sizes import Size
from fastat.support.threat import Norm

_ROUNDING = 1e-3
"""Of a step of the grid: how far rounding may carry a point of the grid off it, or out of the ball."""

_HALVINGS = 12


def quantized(x_adv: Tensor, x: Tensor, eps: Size, norm: Norm, lower: float, upper: float, levels: int) -> Tensor:
    """The points of the grid ``lower + (upper - lower) k / levels`` nearest to ``x_adv`` that lie in the ball.

    linf: entry by entry. l2 and l1: of the points on the way from ``x`` the farthest whose rounding lies in the ball.
    An entry of ``x`` that is on the grid itself stays in reach; of one between two points, none of which is in the
    ball, the nearest to ``x``.
    """
    width = (upper - lower) / levels

    def steps(t: Tensor) -> Tensor:
        return (t - lower) / width

    at = steps(x)
    if norm == "linf":
        reach = eps / width
        first = torch.ceil(at - reach - _ROUNDING).clamp(min=0)
        last = torch.floor(at + reach + _ROUNDING).clamp(max=levels)
        found = torch.where(first <= last, torch.round(steps(x_adv)).clamp(first, last), torch.round(at))
        return _on_grid(found, lower, upper, levels)
    low = x.new_zeros(len(x), *[1] * (x.dim() - 1))
    high = low + 1
    delta, radius = steps(x_adv) - at, (eps + _ROUNDING * width) / width
    power = 2 if norm == "l2" else 1

    def inside(share: Tensor) -> Tensor:
        moved = torch.round(at + share * delta).clamp(0, levels) - at
        size = moved.double().flatten(1).norm(power, dim=1).view_as(low)
        return size <= radius

    share = torch.where(inside(high), high, low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = inside(middle)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    share = torch.maximum(share, low)
    return _on_grid(torch.round(at + share * delta).clamp(0, levels), lower, upper, levels)


def _on_grid(k: Tensor, lower: float, upper: float, levels: int) -> Tensor:
    """As an image that is read from 8 bits: for a box [0, 1] k / 255, rounded once."""
    return k / levels * (upper - lower) + lower if (lower, upper) != (0.0, 1.0) else k / levels


def check_levels(levels: int, lower: Size | None, upper: Size | None) -> None:
    if isinstance(levels, bool) or not isinstance(levels, int) or levels < 1:
        raise ValueError(f"quantize must be an integer >= 1, the steps of the grid: 255 for 8 bits, got {levels!r}")
    if not all(isinstance(end, float | int) and math.isfinite(end) for end in (lower, upper)):
        raise ValueError("quantize needs bounds of two numbers, the ends of the grid")
