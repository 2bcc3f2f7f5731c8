"""Results on the grid of 8-bit images, inside the ball and the box."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastat.kernels.arguments import check_integer
from fastat.kernels.sizes import Size
from fastat.support.threat import Norm

ROUNDING = 1e-3
"""Of a step of the grid: how far rounding may carry an input off it, or a result out of the ball."""

_HALVINGS = 12


def quantized(x_adv: Tensor, x: Tensor, eps: Size, norm: Norm, lower: float, upper: float, levels: int) -> Tensor:
    """Points of the grid ``lower + (upper - lower) k / levels`` close to ``x_adv`` that lie in the ball around ``x``,
    which is on the grid.

    linf: the nearest, entry by entry. l2 and l1: of the points on the way from ``x`` the farthest whose rounding lies
    in the ball.
    """
    width = (upper - lower) / levels
    at, to = ((t - lower) / width for t in (x, x_adv))
    radius = eps / width + ROUNDING
    if norm == "linf":
        first, last = torch.ceil(at - radius).clamp(min=0), torch.floor(at + radius).clamp(max=levels)
        return _image(torch.round(to).clamp(first, last), lower, upper, levels)
    delta, power = to - at, 2 if norm == "l2" else 1
    low = x.new_zeros(len(x), *[1] * (x.dim() - 1))
    high = low + 1

    def moved(share: Tensor) -> Tensor:
        return torch.round(at + share * delta).clamp(0, levels)

    def fits(share: Tensor) -> Tensor:
        return (moved(share) - at).double().flatten(1).norm(power, dim=1).view_as(low) <= radius

    whole = fits(high)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        inside = fits(middle)
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return _image(moved(torch.where(whole, torch.ones_like(low), low)), lower, upper, levels)


def distance_to_grid(x: Tensor, lower: float, upper: float, levels: int) -> Tensor:
    """How far the farthest entry of ``x`` lies off the grid, in its steps; 0-d."""
    at = (x - lower) * (levels / (upper - lower))
    return (at - at.round()).abs().amax()


def _image(k: Tensor, lower: float, upper: float, levels: int) -> Tensor:
    """As an image that is read from 8 bits: for a box [0, 1] k / 255, rounded once."""
    return k / levels if (lower, upper) == (0.0, 1.0) else k / levels * (upper - lower) + lower


def check_levels(levels: object, lower: Size, upper: Size, dtype: torch.dtype) -> None:
    """Raises TypeError or ValueError for a grid that there is not."""
    check_integer(levels, "quantize", 1, ", the steps of the grid: 255 for 8 bits")
    if not all(isinstance(end, float | int) and math.isfinite(end) for end in (lower, upper)):
        raise ValueError("quantize needs bounds of two numbers, the ends of the grid")
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"quantize needs float32 or float64 data, whose numbers are fine enough, got {dtype}")
