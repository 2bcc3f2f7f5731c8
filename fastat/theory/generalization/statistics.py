"""Rates and intervals from counts and from paired runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

_TURNS = 50
_LARGEST = 0.999  # of a fitted frequency: the logarithmic link knows no bound


@dataclass(frozen=True)
class Rate:
    """Frequency = exp(constant - slope x), fitted; slope_error is the standard error of the slope."""

    slope: float
    slope_error: float
    constant: float


def exponential_rate(x: Sequence[float], hits: Sequence[int], trials: int) -> Rate | None:
    """The binomial maximum-likelihood fit of log frequency = constant - slope x; points without a hit count too.

    Args:
        x: where the hits were counted.
        hits: of ``trials`` each.
        trials: at least 1.

    Returns:
        None where fewer than two points have a hit: the slope is not determined then.
    """
    if sum(count > 0 for count in hits) < 2:
        return None
    design = np.stack([np.ones(len(x)), -np.asarray(x, float)], 1)
    counts = np.asarray(hits, float)
    seen = counts > 0
    coefficients = np.linalg.lstsq(design[seen], np.log(counts[seen] / trials), rcond=None)[0]
    for _ in range(_TURNS):  # Fisher scoring
        p = np.minimum(np.exp(design @ coefficients), _LARGEST)
        weight = trials * p / (1 - p)
        information = design.T @ (weight[:, None] * design)
        score = design.T @ ((counts - trials * p) / (1 - p))
        coefficients = coefficients + np.clip(np.linalg.solve(information, score), -1, 1)
    error: NDArray[np.float64] = np.sqrt(np.diag(np.linalg.inv(information)))
    return Rate(float(coefficients[1]), float(error[1]), float(coefficients[0]))


def mean_and_half_width(values: Sequence[float]) -> tuple[float, float]:
    """Mean of independent values and the half width of its 95% t interval; infinite for one value."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), float("inf")
    return float(np.mean(values)), float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5)
