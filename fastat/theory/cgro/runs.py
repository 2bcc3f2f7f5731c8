"""Training runs on patch data, one a cell, and the grids of them that make phase diagrams."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastat.theory.cgro.dynamics import Dynamics, train_dynamics
from fastat.theory.cgro.patches import patch_data
from fastat.theory.cgro.stages import CLEAN_AT_LEAST, shows_cgro
from fastat.training import choose_device

_DRAWN = 200  # steps of a trajectory that are kept, at most

KINDS = ("cgro", "not fitted", "not clean", "robust")
"""What a run comes to: CGRO; or the first of these that stands in its way: a training margin that is not positive, a
clean test accuracy below 0.95, a robust test accuracy above 0.6."""


@dataclass(frozen=True)
class DynamicsCell:
    """A run of :func:`train_dynamics` on fresh patch data; the defaults are the setting in which it shows CGRO."""

    delta: float = 0.8
    sigma: float = 0.86
    n: int = 40
    dim: int = 400
    patches: int = 2
    alpha: float = 1.0
    filters: int = 200
    init_scale: float = 0.1
    step_size: float = 1.0
    max_steps: int = 10_000
    test_samples: int = 1000
    seed: int = 0


def dynamics_outcome(cell: DynamicsCell, *, device: str | None = None) -> dict[str, Any]:
    """What the run has come to at its end, and how far it was when it began to memorize."""
    run = _run(cell, None, device)
    memory = run.V.mean(1)
    start = run.stages.memorizing
    found = {
        "robust_train": float(run.robust_train[-1]),
        "clean_test": run.clean_test[-1],
        "robust_test": run.robust_test[-1],
    }
    return {
        **dataclasses.asdict(cell),
        **found,
        "kind": _kind(**found),
        "clean_test_before": run.clean_test[0],
        "steps": run.steps,
        "memorizing": start,
        "fitted": run.stages.fitted,
        "U": [float(run.U[0]), None if start is None else float(run.U[start]), float(run.U[-1])],
        "V": [float(memory[0]), None if start is None else float(memory[start]), float(memory[-1])],
    }


def trajectory(cell: DynamicsCell, *, device: str | None = None) -> dict[str, Any]:
    """The run step by step: 200 of its steps at most, and six digits of each number, to be drawn."""
    run = _run(cell, 1, device)
    kept = list(range(0, run.steps + 1, -(-(run.steps + 1) // _DRAWN)))
    return {
        **dataclasses.asdict(cell),
        "memorizing": run.stages.memorizing,
        "fitted": run.stages.fitted,
        "step": kept,
        "U": [_short(value) for value in run.U[kept].tolist()],
        "V": [[_short(value) for value in row] for row in run.V[kept].tolist()],
        "robust_train": run.robust_train[kept].tolist(),
        "clean_test": [run.clean_test[step] for step in kept],
        "robust_test": [run.robust_test[step] for step in kept],
    }


def phase_diagram(runs: Sequence[dict[str, Any]], row: str, column: str) -> dict[str, NDArray[np.float64]]:
    """Fractions of the runs of each kind (:data:`KINDS`) over a grid of two of their settings.

    Args:
        runs: outcomes of :func:`dynamics_outcome`, several seeds for each pair of values.
        row, column: names of fields of :class:`DynamicsCell`; their values ascend along the axes.

    Returns:
        for each kind an array [rows, columns], NaN where there is no run.
    """
    rows, columns = (sorted({run[name] for run in runs}) for name in (row, column))
    count = {kind: np.zeros((len(rows), len(columns))) for kind in KINDS}
    for run in runs:
        count[run["kind"]][rows.index(run[row]), columns.index(run[column])] += 1
    total = sum(count.values())
    with np.errstate(invalid="ignore"):
        return {kind: number / total for kind, number in count.items()}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _kind(robust_train: float, clean_test: float, robust_test: float) -> str:
    if shows_cgro(robust_train, clean_test, robust_test):
        return "cgro"
    if robust_train < 1:
        return "not fitted"
    return "not clean" if clean_test < CLEAN_AT_LEAST else "robust"


def _run(cell: DynamicsCell, measure_every: int | None, device: str | None) -> Dynamics:
    place = choose_device(device)

    def draw(n: int, number: int) -> Any:
        return patch_data(n, cell.dim, cell.patches, cell.alpha, cell.sigma, seed=cell.seed, draw=number, device=place)

    return train_dynamics(
        draw(cell.n, 0),
        draw(cell.test_samples, 1),
        cell.delta,
        filters=cell.filters,
        init_scale=cell.init_scale,
        step_size=cell.step_size,
        max_steps=cell.max_steps,
        measure_every=measure_every,
        seed=cell.seed,
    )
