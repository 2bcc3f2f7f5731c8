"""What a value of a protocol must be beyond a number: TypeError or ValueError that names it."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from fastat.kernels.arguments import check_number


def one_of(value: object, name: str, known: Sequence[str]) -> None:
    """One of these words."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def below_1(value: object, name: str) -> None:
    """A number in [0, 1)."""
    if check_number(value, name) >= 1:
        raise ValueError(f"{name} must be in [0, 1), got {value}")


def at_least_1(value: object, name: str) -> None:
    """A whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
