"""Whether two ways of training differ on the same samples by more than noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats


@dataclass(frozen=True)
class Difference:
    """A mean difference of accuracies.

    Attributes:
        mean: in [-1, 1].
        standard_error: over the draw of the networks and of the samples.
        freedom: degrees of freedom of the standard error.
    """

    mean: float
    standard_error: float
    freedom: float

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval, by the t distribution."""
        reach = float(stats.t.ppf((1 + level) / 2, self.freedom)) * self.standard_error
        return self.mean - reach, self.mean + reach


def paired_difference(values: NDArray[np.float64]) -> Difference:
    """The mean of differences of networks trained with the same seeds on the same samples.

    Its variance is that of the networks' means, over the seeds, plus that of the samples' means, over the samples. The
    noise of single predictions is in both and so counted twice, which makes the interval a cautious one; it holds for
    other seeds and other test samples, but for the same training samples. Degrees of freedom by Welch and
    Satterthwaite.

    Args:
        values: [seeds, samples], how much better the first network of a pair does on a sample than the second, in
            [-1, 1] where both are right or wrong.

    Raises:
        ValueError: fewer than two seeds or samples.
    """
    if values.ndim != 2 or min(values.shape) < 2:
        raise ValueError(f"values must be a matrix of at least two seeds and two samples, got shape {values.shape}")
    parts = [means.var(ddof=1) / len(means) for means in (values.mean(1), values.mean(0))]
    weights = [part**2 / (n - 1) for part, n in zip(parts, values.shape, strict=True)]
    freedom = sum(parts) ** 2 / sum(weights) if sum(weights) > 0 else sum(values.shape) - 2
    return Difference(float(values.mean()), float(sum(parts) ** 0.5), float(freedom))


def mean_interval(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Means over the first axis, the seeds, and the reach of their 95% intervals (t distribution); at least 2 seeds."""
    n = len(values)
    reach = stats.t.ppf(0.975, n - 1) * values.std(0, ddof=1) / n**0.5
    return values.mean(0), np.asarray(reach)
