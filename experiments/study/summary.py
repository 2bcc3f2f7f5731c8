"""From run folders to numbers: every run's curves, and mean, smallest and largest over the seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from experiments.study.cells import ALPHAS, ARMS, RS, Arm, Cell
from experiments.study.measure import in_sample
from experiments.study.runs import Job

UNIFORM = math.log(10)
"""The loss of a uniform prediction, attacked or not: all datasets of the study have ten classes."""


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        rows: what was measured, by epoch: {"epoch": 6, "test loss": ..., ...}.
        n: number of training images.
        seconds: what it took, measurements included.
    """

    cell: Cell
    seed: int
    n: int
    rows: list[dict[str, float]]
    seconds: float

    @property
    def arm(self) -> Arm:
        """How it was trained."""
        return ARMS[self.cell.arm]

    def own_loss(self, row: dict[str, float]) -> float:
        """The in-sample HR loss at the budgets of its training; without budgets the mean."""
        return row[in_sample(self.arm.alpha, self.arm.r)]

    def margin(self, row: dict[str, float]) -> float:
        """In-sample HR loss less test loss: at 0 and above the promise is kept."""
        return self.own_loss(row) - row["test loss"]

    @property
    def learned(self) -> bool:
        """Whether the final test loss is a tenth or more below a uniform prediction's, which keeps any promise."""
        return self.rows[-1]["test loss"] <= 0.9 * UNIFORM

    @property
    def gap(self) -> float:
        """Best less final robust accuracy, over the epochs that were measured."""
        return max(row["robust"] for row in self.rows) - self.rows[-1]["robust"]


@dataclass(frozen=True)
class Spread:
    """A number over the seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    @property
    def low(self) -> float:
        return min(self.values)

    @property
    def high(self) -> float:
        return max(self.values)


Value = Callable[[Outcome, dict[str, float]], float]
"""A number of a run, at one of its measurements."""


def test_loss(outcome: Outcome, row: dict[str, float]) -> float:
    """Mean loss of the test images under attack."""
    return row["test loss"]


def clean(outcome: Outcome, row: dict[str, float]) -> float:
    """Test accuracy."""
    return row["clean"]


def robust(outcome: Outcome, row: dict[str, float]) -> float:
    """Test accuracy under attack."""
    return row["robust"]


def read(jobs: Iterable[Job]) -> list[Outcome]:
    """The finished ones among the jobs."""
    found = []
    for job in jobs:
        if not job.finished:
            continue
        lines = [json.loads(line) for line in (job.folder / "metrics.jsonl").read_text().splitlines()]
        rows = [{"epoch": line["epoch"], **line["measured"]} for line in lines if line["measured"]]
        time = job.folder / "seconds.json"
        seconds = json.loads(time.read_text()) if time.exists() else sum(line["seconds"] for line in lines)
        assert job.config.dataset.train_size is not None
        found.append(Outcome(job.cell, job.seed, job.config.dataset.train_size, rows, seconds))
    return found


def by_cell(outcomes: Iterable[Outcome]) -> dict[Cell, list[Outcome]]:
    """The seeds of each cell."""
    cells: dict[Cell, list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault(outcome.cell, []).append(outcome)
    return cells


def final(outcomes: Sequence[Outcome], value: Value) -> Spread:
    """A number of the last measurement."""
    return Spread(tuple(value(outcome, outcome.rows[-1]) for outcome in outcomes))


def curve(outcomes: Sequence[Outcome], value: Value) -> list[Spread]:
    """A number of every measurement, in their order."""
    return [
        Spread(tuple(value(outcome, row) for outcome, row in zip(outcomes, rows, strict=True)))
        for rows in zip(*(outcome.rows for outcome in outcomes), strict=True)
    ]


def epochs(outcomes: Sequence[Outcome]) -> list[int]:
    """When they were measured."""
    return [int(row["epoch"]) for row in outcomes[0].rows]


def as_json(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """Everything that was measured, five digits of it; the in-sample losses at all budgets of the last network."""
    return [
        {
            "data": outcome.cell.data,
            "arm": outcome.cell.arm,
            "flipped": outcome.cell.noise,
            "width": outcome.cell.width,
            "seed": outcome.seed,
            "train_size": outcome.n,
            "seconds": round(outcome.seconds, 1),
            "epoch": epochs([outcome]),
            "in-sample": [_short(outcome.own_loss(row)) for row in outcome.rows],
            **{key: [_short(row[key]) for row in outcome.rows] for key in ("test loss", "clean", "robust")},
            "at budgets": {f"{a:g} {r:g}": _short(outcome.rows[-1][in_sample(a, r)]) for a, r in product(ALPHAS, RS)},
        }
        for outcome in outcomes
    ]


def _short(value: float) -> float:
    return float(f"{value:.5g}")
