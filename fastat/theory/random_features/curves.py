"""Risks along a line: over the number of features, of samples, or over the radius."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray

from fastat.theory.random_features.asymptotics import Asymptotics, asymptotics

Vary = Literal["psi1", "psi2", "eps"]


class Landmarks(NamedTuple):
    """Where a curve of adversarial risk peaks, where it is lowest beyond, and its rise from there to the last point.

    Positions are values of what varies, on the curve's grid. None without a peak inside; minimum and rise are None too
    where the curve is lowest at its end.
    """

    peak: float | None
    peak_risk: float | None
    minimum: float | None
    minimum_risk: float | None
    rise: float | None


@dataclass(frozen=True)
class Curve:
    """Asymptotics at several values of one argument.

    Attributes:
        vary: the argument.
        values: its values, rising.
        points: what :func:`asymptotics` found at each.
    """

    vary: Vary
    values: tuple[float, ...]
    points: tuple[Asymptotics, ...]

    def column(self, name: str) -> NDArray[np.float64]:
        """[len(values)], the attribute ``name`` of the points."""
        return np.array([getattr(point, name) for point in self.points])

    def landmarks(self) -> Landmarks:
        """Of the adversarial risk: its highest point inside that falls on both sides, and what follows it."""
        risk = self.column("adversarial_risk")
        inner = np.flatnonzero((risk[1:-1] > risk[:-2]) & (risk[1:-1] >= risk[2:])) + 1
        if len(inner) == 0:
            return Landmarks(None, None, None, None, None)
        peak = int(inner[risk[inner].argmax()])
        lowest = peak + int(risk[peak:].argmin())
        if lowest == len(risk) - 1:
            return Landmarks(self.values[peak], float(risk[peak]), None, None, None)
        rise = float(risk[-1] - risk[lowest])
        return Landmarks(self.values[peak], float(risk[peak]), self.values[lowest], float(risk[lowest]), rise)


def curve(
    vary: Vary,
    values: Sequence[float],
    *,
    psi1: float = 1.0,
    psi2: float = 2.0,
    eps: float = 0.3,
    tau: float = 0.3,
    eps_test: float | None = None,
) -> Curve:
    """:func:`asymptotics` at each of the values of one argument, the others as given.

    The points run through :class:`joblib.Parallel`; a point takes about two milliseconds, so that more than one process
    (``joblib.parallel_config``) pays from thousands of points on.

    Args:
        vary: "psi1", "psi2" or "eps".
        values: of it, rising.
        psi1, psi2, eps, tau, eps_test: see :func:`asymptotics`; that of ``vary`` is not used.

    Raises:
        ValueError: another ``vary``, values that do not rise, or a point out of its range.
        ArithmeticError: a point could not be certified.
    """
    if vary not in ("psi1", "psi2", "eps"):
        raise ValueError(f"vary must be psi1, psi2 or eps, got {vary!r}")
    numbers = tuple(float(value) for value in values)
    if not numbers or any(later <= earlier for earlier, later in pairwise(numbers)):
        raise ValueError(f"values must be numbers that rise, got {numbers}")
    fixed = {"psi1": psi1, "psi2": psi2, "eps": eps, "tau": tau, "eps_test": eps_test}
    tasks = (joblib.delayed(asymptotics)(**{**fixed, vary: value}) for value in numbers)
    return Curve(vary, numbers, tuple(joblib.Parallel()(tasks)))
