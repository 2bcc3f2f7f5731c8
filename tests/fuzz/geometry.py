"""Ball and box in float64: which promises of them a point breaks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

MODERATE = 1e25
"""Beyond it numbers may overflow on the way."""

_HALF = (torch.float16, torch.bfloat16)
_ORDERS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def wide(t: Tensor) -> Tensor:
    return t.detach().as_subclass(Tensor).double()


def unit(x: Tensor) -> float:
    """Half of the distance of 1 from the next number, in the precision that is computed in for ``x``."""
    return 2.0**-53 if x.dtype == torch.float64 else 2.0**-24


def spread(value: Any, x: Tensor, default: float = 0.0) -> Tensor:
    """A size in the precision that is computed in, to broadcast against ``x``."""
    if not isinstance(value, Tensor):
        value = _double(value, default)
    value = wide(value.to(torch.float64 if x.dtype == torch.float64 else torch.float32))
    per_sample = value.dim() == 1 and len(value) == len(x) != 1
    return value.view(-1, *[1] * (x.dim() - 1)) if per_sample else value


def whole_samples(entries: Tensor) -> Tensor:
    """Of bools: those of samples that are True throughout."""
    if entries.numel() == 0:
        return entries
    rows = entries.reshape(len(entries), -1)
    return rows.all(1, keepdim=True).expand(rows.shape).reshape(entries.shape)


def _number(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)


def ends_of(box: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the box as the ops compute with them: in half precision the numbers within it."""
    if x.dtype not in _HALF:
        return spread(box[0], x, -math.inf), spread(box[1], x, math.inf)
    low, high = (
        spread(end, x) if isinstance(end, Tensor) else _double(end, none)
        for end, none in zip(box, (-math.inf, math.inf), strict=True)
    )
    return _next_inside(low, high, x.dtype)


def _double(value: Any, default: float) -> Tensor:
    return torch.full((), default if value is None else _number(value), dtype=torch.float64)


def outside_box(found: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Iterator[str]:
    """Exactly; in half precision where that has a number in the box."""
    past = torch.maximum(low - wide(found), wide(found) - high)
    if past.numel() > 0 and ((past > 0) & (low <= high)).any():
        yield "left the box" + (" by a rounding" if past.amax() < 0.01 else "")


def outside_ball(
    found: Tensor, x: Tensor, eps: Tensor, norm: str, trusted: Tensor, slack: float = 0.0
) -> Iterator[str]:
    """Up to the rounding of ``x + delta``, where a sample, or for linf an entry, is ``trusted``."""
    if x.numel() == 0:
        return
    point, centre, u = wide(found), wide(x), unit(x)
    distance, least = (point - centre).abs(), 5e-324 if x.dtype == torch.float64 else 2.0**-149
    rounding = 2 * u * (centre.abs() + eps.clamp(max=1e30)) + least
    if norm == "linf":
        far, radius = distance, eps
    else:
        trusted = whole_samples(trusted).reshape(len(x), -1)[:, 0]
        rows = (t.expand(x.shape).reshape(len(x), -1) for t in (distance, rounding))
        far, rounding = (_norm(t, _ORDERS[norm]) for t in rows)
        radius = eps.expand(x.shape).reshape(len(x), -1)[:, 0]
    if ((far > radius * (1 + 16 * u) + rounding + slack) & trusted).any():
        yield "left the ball"


def _norm(rows: Tensor, order: float) -> Tensor:
    """Of numbers of any size: their squares may be larger than any."""
    largest = rows.amax(1, keepdim=True)
    found = torch.linalg.vector_norm(rows / largest.clamp(min=1e-300), order, dim=1) * largest[:, 0]
    return torch.where(largest[:, 0].isfinite(), found, math.inf)


def _next_inside(low: Tensor, high: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The ends of the box among the numbers of ``dtype``."""
    up, down = low.to(dtype), high.to(dtype)
    up = torch.where(up.double() < low, torch.nextafter(up, torch.full_like(up, math.inf)), up)
    down = torch.where(down.double() > high, torch.nextafter(down, torch.full_like(down, -math.inf)), down)
    return up.double(), down.double()
