"""The threat model: which perturbations an attack may use, and the checks every attack and op makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[str, ...] = get_args(Norm)

Bounds = tuple[float | None, float | None] | None
"""The box of valid inputs (lower, upper); None, for the box or one end of it, for no bound."""


@dataclass(frozen=True)
class ThreatModel:
    """Which perturbations are defended against.

    Attributes:
        norm: of the perturbation.
        eps: its radius, in the unit of the inputs.
        bounds: the box of valid inputs.
    """

    norm: Norm = "linf"
    eps: float = 0.1
    bounds: Bounds = (0.0, 1.0)


def as_float(value: Any) -> float:
    """A number as a float, an infinite one where it is too large."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def check_norm(norm: str) -> int:
    """Position of ``norm`` in :data:`NORMS`; ValueError if it is not one of them."""
    if not isinstance(norm, str) or norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return NORMS.index(norm)


def check_bounds(bounds: Bounds) -> tuple[float, float]:
    """The box as two numbers, infinite for None; TypeError or ValueError unless they are that, lower < upper."""
    if bounds is None:
        return -math.inf, math.inf
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"bounds must be None or a pair (lower, upper), got {bounds!r}")
    for end in bounds:
        if end is not None and (isinstance(end, bool) or not isinstance(end, Real)):
            raise TypeError(f"bounds must be numbers or None, got {type(end).__name__}")
    lower = -math.inf if bounds[0] is None else as_float(bounds[0])
    upper = math.inf if bounds[1] is None else as_float(bounds[1])
    if not lower < upper:
        raise ValueError(f"bounds must have lower < upper, got ({lower}, {upper})")
    return lower, upper
