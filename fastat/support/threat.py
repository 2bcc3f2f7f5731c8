"""The threat model: which perturbations an attack may use, and the checks every attack and op makes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor

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


def check_size(value: float | Tensor, name: str, batch: int, check_values: bool = True) -> None:
    """Checks a radius or step size: a number >= 0, or a floating-point tensor of such numbers, 0-d or one per sample.

    Values inside a tensor are looked at only where that costs no synchronization (CPU) and ``check_values`` allows it.
    """
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point tensor, got dtype {value.dtype}")
        if value.dim() > 1 or (value.dim() == 1 and value.shape[0] != batch):
            raise ValueError(f"{name} must be a number or one per sample [{batch}], got shape {list(value.shape)}")
        if check_values and value.device.type == "cpu" and not torch.compiler.is_compiling():
            bad = ~(value >= 0)
            if bad.any():
                raise ValueError(f"{name} must be >= 0, got {value[bad].flatten()[0].item()}")
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
    if not value >= 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    if name == "step_size" and math.isinf(value):  # times a zero gradient it would be NaN
        raise ValueError(f"step_size must be finite, got {value}")
