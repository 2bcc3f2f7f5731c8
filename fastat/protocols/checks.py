"""What a value of a protocol must be beyond a number: TypeError or ValueError that names it."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

from fastat.kernels.arguments import check_integer, check_number


def one_of(value: object, name: str, known: Sequence[str]) -> None:
    """One of these words."""
    if not isinstance(value, str) or value not in known:
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
    check_integer(value, name, 1)


def plain_numbers(owner: object, *names: str) -> None:
    """Makes floats, which JSON and formats have, of numpy's numbers and others in the fields of a frozen dataclass."""
    for name in names:
        value = getattr(owner, name)
        if type(value) not in (int, float):
            object.__setattr__(owner, name, float(value))
