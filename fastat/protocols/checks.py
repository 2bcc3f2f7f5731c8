"""What a value of a protocol must be: TypeError or ValueError that names it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral, Real


def one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def at_least_0(name: str, value: object) -> None:
    _number(name, value, "a finite number >= 0", lambda v: 0 <= v < math.inf)


def above_0(name: str, value: object) -> None:
    _number(name, value, "a finite number above 0", lambda v: 0 < v < math.inf)


def below_1(name: str, value: object) -> None:
    _number(name, value, "in [0, 1)", lambda v: 0 <= v < 1)


def at_least_1(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _number(name: str, value: object, rule: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not holds(float(value)):
        raise ValueError(f"{name} must be {rule}, got {value}")
