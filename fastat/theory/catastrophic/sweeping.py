"""Grids of trainings over the amplitude of the feature and the radius of the attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from fastat.theory import sweep as runner
from fastat.theory.catastrophic.cell import Cell, Method, run_cell

_BASE = Cell()


@dataclass(frozen=True)
class Outcome:
    """What a cell's training came to.

    Attributes:
        cell: the training.
        history: what was seen by epoch; see :func:`fastat.theory.catastrophic.cell.run_cell`.
        collapse: the epoch at which PGD accuracy collapsed for good; None if it did not.
        unfiltered: where there was a low pass, the last numbers without it; else None.
    """

    cell: Cell
    history: list[dict[str, Any]]
    collapse: int | None
    unfiltered: dict[str, float] | None = None

    @property
    def last(self) -> dict[str, Any]:
        """The numbers after the last epoch."""
        return self.history[-1]

    @property
    def best(self) -> dict[str, Any]:
        """The numbers at the first epoch with the highest PGD accuracy."""
        return max(self.history, key=lambda row: row["pgd"])


@dataclass(frozen=True)
class Sweep:
    """The outcomes of a grid.

    Attributes:
        betas: amplitudes, the columns.
        epsilons: radii, the rows.
        outcomes: one per epsilon, beta and seed, seeds changing fastest, then betas.
    """

    betas: tuple[float, ...]
    epsilons: tuple[float, ...]
    outcomes: list[Outcome]

    def at(self, beta: float, eps: float) -> list[Outcome]:
        """The outcomes of one point of the grid, one per seed."""
        return [outcome for outcome in self.outcomes if (outcome.cell.beta, outcome.cell.eps) == (beta, eps)]


def sweep(
    betas: Sequence[float],
    epsilons: Sequence[float],
    method: Method = "fgsm",
    *,
    seeds: Sequence[int] = (0,),
    base: Cell = _BASE,
    folder: str | Path,
    data_root: Path | None = None,
    download: bool = False,
    device: str | None = None,
) -> Sweep:
    """Trains at every amplitude and radius, in parallel as :func:`fastat.theory.sweep.sweep` says.

    Args:
        betas: amplitudes of the injected patterns, at least 0; reversed ones below.
        epsilons: radii of the training's attack, above 0.
        method: how to train; see :data:`fastat.theory.catastrophic.cell.METHODS`.
        seeds: of weights, order and attacks.
        base: everything else.
        folder: finished cells and their runs are kept there; the same call continues a stopped one.
        data_root, download, device: see :func:`fastat.training.train_configured`.

    Raises:
        ValueError: a value is out of its range.
    """
    cells = [
        replace(base, method=method, beta=beta, eps=eps, seed=seed)
        for eps in epsilons
        for beta in betas
        for seed in seeds
    ]
    outcomes = run_cells(cells, folder, data_root=data_root, download=download, device=device)
    return Sweep(tuple(betas), tuple(epsilons), outcomes)


def run_cells(
    cells: Sequence[Cell],
    folder: str | Path,
    *,
    data_root: Path | None = None,
    download: bool = False,
    device: str | None = None,
) -> list[Outcome]:
    """The outcomes of any cells, in their order. The other arguments are those of :func:`sweep`."""
    place = Path(folder)
    function = partial(run_cell, folder=place / "runs", data_root=data_root, download=download, device=device)
    found = runner.sweep(function, cells, folder=place / "cells", label="trainings")
    return [Outcome(**{**outcome, "cell": cell}) for outcome, cell in zip(found, cells, strict=True)]
