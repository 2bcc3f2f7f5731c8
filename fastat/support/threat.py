"""The threat model: which perturbations an attack may use, and the checks every attack and op makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

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


def check_norm(norm: str) -> int:
    """Position of ``norm`` in :data:`NORMS`; ValueError if it is not one of them."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
    return NORMS.index(norm)


def check_bounds(bounds: Bounds) -> tuple[float, float]:
    """The box as two numbers, infinite for None; ValueError unless lower < upper."""
    if bounds is None:
        return -math.inf, math.inf
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise TypeError(f"bounds must be None or a pair (lower, upper), got {bounds!r}")
    lower = -math.inf if bounds[0] is None else float(bounds[0])
    upper = math.inf if bounds[1] is None else float(bounds[1])
    if not lower < upper:
        raise ValueError(f"bounds must have lower < upper, got ({lower}, {upper})")
    return lower, upper
