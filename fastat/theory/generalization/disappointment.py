"""How often the loss out of sample exceeds the HR loss in the sample, over many samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from fastat.support.keyed import derive_seed
from fastat.theory.generalization.fitting import Worst, fit
from fastat.theory.generalization.linear import Corruption, Problem

_NUMBERS_AT_ONCE = 1_000_000
_NANO = 1e9
_TIE = 1e-9  # a model w = 0 has the loss log 2 in and out of sample: rounding is no disappointment
_STATIONARY = 1e-4


@dataclass(frozen=True)
class LinearCell:
    """A number of samples, a linear model trained on each, and its HR loss held against its loss out of sample.

    Attributes:
        problem: the distribution and the adversary.
        n: points in a sample.
        alpha, r: budgets of the HR loss that is minimized; both 0 for ordinary adversarial training.
        worst: see :func:`fit`.
        corruption, fraction: what was done to the sample, and to which fraction of it.
        samples: how many.
        seed: the points are a function of it, of n, of r and of eps.
    """

    problem: Problem
    n: int
    alpha: float
    r: float
    worst: Worst
    corruption: Corruption
    fraction: float
    samples: int
    seed: int


@dataclass(frozen=True)
class LinearOutcome:
    """What a :class:`LinearCell` gave.

    Attributes:
        cell: the settings.
        disappointed: samples whose model has an adversarial loss over the distribution above its HR loss in sample.
        in_sample: the mean HR loss over the samples.
        population: the mean adversarial loss over the distribution.
        optimism: the mean of population - in_sample.
        optimism_error: its standard error.
        stationary: the share of samples where the gradient of the training fell below 1e-4.
    """

    cell: LinearCell
    disappointed: int
    in_sample: float
    population: float
    optimism: float
    optimism_error: float
    stationary: float

    @property
    def frequency(self) -> float:
        """The share of disappointed samples."""
        return self.disappointed / self.cell.samples


def linear_outcome(cell: LinearCell, device: str | None = None) -> dict[str, Any]:
    """Runs a cell in float64; the points are drawn on the CPU whatever the device.

    Returns:
        The fields of :class:`LinearOutcome` but the cell.
    """
    problem, key = cell.problem, (cell.n, round(_NANO * cell.r), round(_NANO * cell.problem.eps))
    generator = torch.Generator().manual_seed(derive_seed(cell.seed, *key))
    found = []
    for count in _parts(cell):
        clean = problem.sample(count, cell.n, generator).to(device or "cpu")
        z = problem.corrupt(clean, cell.corruption, cell.fraction)
        fitted = fit(problem, z, cell.alpha, cell.r, cell.worst)
        found.append(torch.stack([fitted.loss, problem.population_loss(fitted.w), fitted.gradient]))
    loss, population, gradient = torch.cat(found, 1).cpu()
    optimism = population - loss
    return {
        "disappointed": int((optimism > _TIE).sum()),
        "in_sample": float(loss.mean()),
        "population": float(population.mean()),
        "optimism": float(optimism.mean()),
        "optimism_error": float(optimism.std() / cell.samples**0.5),
        "stationary": float((gradient < _STATIONARY).double().mean()),
    }


def _parts(cell: LinearCell) -> Iterator[int]:
    """Numbers of samples to work on at once."""
    most = max(1, _NUMBERS_AT_ONCE // (cell.n * cell.problem.dimension))
    for start in range(0, cell.samples, most):
        yield min(most, cell.samples - start)
