"""The experiment: risks against the number of features and against the radius, theory and simulation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastat.theory.contract import DEFAULT_RESOURCES, Resources
from fastat.theory.cost import duration
from fastat.theory.random_features.asymptotics import Asymptotics, asymptotics, check_arguments, critical_eps
from fastat.theory.random_features.curves import Curve, curve
from fastat.theory.random_features.figures import plot_features, plot_radius, plot_trained
from fastat.theory.random_features.simulation import peak_bytes, simulate
from fastat.theory.result import Finding, Picture, Result, Verdict
from fastat.theory.sweep import sweep
from fastat.theory.threads import one_thread
from fastat.training import choose_device


@dataclass(frozen=True)
class Settings:
    """What is drawn and simulated."""

    eps: tuple[float, ...] = (0.1, 0.3, 0.6)
    """Radii of the curves over the number of features."""
    psi2: float = 2.0
    """Samples per dimension."""
    tau: float = 0.3
    """Standard deviation of the noise."""
    psi1_from: float = 0.1
    """Fewest features per dimension of the curves."""
    psi1_to: float = 50.0
    """Most features per dimension of the curves."""
    points: int = 200
    """Points of each curve."""
    simulated_psi1: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 20.0)
    """Features per dimension that are simulated too."""
    radius_psi1: tuple[float, ...] = (1.0, 3.0)
    """Features per dimension of the curves over the radius."""
    radius_parts: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.2)
    """Radii that are simulated on these, as parts of the radius from which theta = 0 is optimal."""
    d: tuple[int, ...] = (50, 100)
    """Dimensions of the simulations, rising; figures show the last."""
    trials: int = 16
    """Independent trials of each simulated point."""
    seed: int = 0
    """Of the simulations."""

    def __post_init__(self) -> None:
        for name in ("eps", "simulated_psi1", "radius_psi1", "radius_parts"):
            values = getattr(self, name)
            if not values or not all(np.isfinite(values)) or min(values) < 0 or len(set(values)) < len(values):
                raise ValueError(f"{name} must be one or more numbers that differ and are not negative, got {values}")
        if not 0 < self.psi1_from < self.psi1_to:
            raise ValueError(f"psi1_from must be above 0 and below psi1_to, got {self.psi1_from} and {self.psi1_to}")
        if not self.d or min(self.d) < 2 or list(self.d) != sorted(set(self.d)):
            raise ValueError(f"d must be one or more rising dimensions of at least 2, got {self.d}")
        for name, least in (("points", 3), ("trials", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for psi1 in (*self.simulated_psi1, *self.radius_psi1):
            check_arguments(psi1, self.psi2, 0.0, self.tau, None)
        for name, radii in (("simulated_psi1", self.eps), ("radius_psi1", self.radius_parts)):
            if min(radii) == 0 and self.psi2 in getattr(self, name):
                raise ValueError(
                    f"{name} must not hold psi2 where the radius 0 is simulated: the risk is infinite there"
                )


PRESETS: dict[str, Settings] = {
    "quick": Settings(),
    "paper": Settings(
        eps=(0.1, 0.2, 0.3, 0.6, 0.9),
        simulated_psi1=(0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0),
        d=(100, 200, 300),
        trials=30,
    ),
}


@dataclass(frozen=True)
class Cell:
    """One simulated point."""

    psi1: float
    psi2: float
    eps: float
    tau: float
    d: int
    trials: int
    seed: int


@dataclass(frozen=True)
class RandomFeaturesResult(Result):
    """Curves and simulated points.

    Attributes:
        curves: for each of ``settings.eps`` the risks over psi1: lists by name, and the landmarks.
        radius_curves: for each of ``settings.radius_psi1`` the risks over eps, and eps_c.
        simulated: rows of the simulated points over psi1, for each dimension, with the theory's values.
        simulated_radius: those over eps.
        largest_error: of the adversarial risk of any point of a curve, as certified.
    """

    experiment: ClassVar[str] = "random-features"
    title: ClassVar[str] = "Random features: the curse of overparametrization in adversarial training"

    settings: Settings
    curves: list[dict[str, Any]]
    radius_curves: list[dict[str, Any]]
    simulated: list[dict[str, Any]]
    simulated_radius: list[dict[str, Any]]
    largest_error: float

    def findings(self) -> list[Finding]:
        """The shape of the curves, and how far the simulations are from them."""
        return [self._rise(), self._critical(), self._simulations()]

    def plot(self, folder: Path) -> list[Picture]:
        """Three figures."""
        shown = dataclasses.asdict(self.settings)
        points, radius_points = (
            [row for row in rows if row["d"] == self.settings.d[-1]] for rows in (self.simulated, self.simulated_radius)
        )
        plot_features(folder / "features.png", self.curves, points, shown)
        plot_trained(folder / "trained.png", self.curves, points, shown)
        plot_radius(folder / "radius.png", self.radius_curves, radius_points, shown)
        trials = f"mean of {self.settings.trials} trials with its 95% interval"
        drawn = f"Lines: the theory; points: simulated in dimension {self.settings.d[-1]}, {trials}."
        return [
            Picture("features.png", f"Adversarial risk against the number of features. {drawn}"),
            Picture("trained.png", f"Standard risk of the trained model, and the norm of its Jacobian. {drawn}"),
            Picture("radius.png", f"Against the radius; beyond the dashed one the trained model is zero. {drawn}"),
        ]

    def _rise(self) -> Finding:
        parts, rising = [], 0
        for found in self.curves:
            peak, low, rise = found["peak"], found["minimum"], found["rise"]
            if peak is None:
                parts.append(f"at eps {found['eps']:g} it has no peak")
                continue
            text = f"at eps {found['eps']:g} it peaks at psi1 = {peak:.3g} ({found['peak_risk']:.3f})"
            if low is None:
                parts.append(f"{text} and is still falling at psi1 = {self.settings.psi1_to:g}")
                continue
            rising += rise > 10 * self.largest_error
            parts.append(
                f"{text}, is lowest beyond at psi1 = {low:.3g} ({found['minimum_risk']:.3f}) and rises by {rise:.3f} "
                f"up to psi1 = {self.settings.psi1_to:g}"
            )
        verdict: Verdict = "reproduced" if rising == len(self.curves) else "partly" if rising else "not reproduced"
        return Finding(
            "Beyond the interpolation peak the adversarial risk falls to a minimum and rises: more parameters hurt",
            verdict,
            "; ".join(parts),
        )

    def _critical(self) -> Finding:
        rows = [row for row in self.simulated_radius if row["d"] == self.settings.d[-1]]
        beyond = [row["jacobian_norm"]["mean"] for row in rows if row["eps"] > row["eps_c"]]
        below = [row["jacobian_norm"]["mean"] for row in rows if 0 < row["eps"] < row["eps_c"]]
        limits = ", ".join(f"{found['eps_c']:.4f} at psi1 = {found['psi1']:g}" for found in self.radius_curves)
        if not beyond or not below:
            return Finding(
                _CRITICAL, "not tested", f"eps_c is {limits}; radius_parts has no radius on one of its sides"
            )
        return Finding(
            _CRITICAL,
            "reproduced" if max(beyond) == 0 < min(below) else "partly",
            f"eps_c is {limits}; in dimension {self.settings.d[-1]} the largest mean norm of the Jacobian of "
            f"{len(beyond)} simulated points beyond it is {max(beyond):.3g}, the smallest of {len(below)} below it "
            f"{min(below):.3g}",
        )

    def _simulations(self) -> Finding:
        rows = self.simulated + [row for row in self.simulated_radius if row["eps"] < row["eps_c"]]
        beyond = {d: _deviation([row for row in rows if row["d"] == d]) for d in self.settings.d}
        first, last = self.settings.d[0], self.settings.d[-1]
        holds = beyond[last] < 0.03 and (beyond[last] < beyond[first] or first == last)
        listed = ", ".join(f"{beyond[d]:.1%} at d = {d}" for d in self.settings.d)
        return Finding(
            "The asymptotic formulas describe robust training in finite dimension, the better the larger it is",
            "reproduced" if holds else "partly",
            f"adversarial risks of simulated points differ from the theory by {listed} (root mean square over "
            f"{len(rows) // len(self.settings.d)} points, what the trials' spread explains taken off); every simulated "
            f"training is optimal to {max(row['gap'] for row in rows):.0e}, every theoretical risk exact to "
            f"{self.largest_error:.0e}",
        )


def _deviation(rows: Sequence[Mapping[str, Any]]) -> float:
    """Root mean square of the relative deviation of the simulated adversarial risks that is not noise."""
    found = [row["adversarial_risk"] for row in rows]
    squares = [(one["mean"] - one["theory"]) ** 2 - one["standard_error"] ** 2 for one in found]
    relative = [square / one["theory"] ** 2 for square, one in zip(squares, found, strict=True)]
    return max(float(np.mean(relative)), 0.0) ** 0.5


_CRITICAL = "From a critical radius on the best model is theta = 0"
_NAMES = ("adversarial_risk", "standard_risk", "jacobian_norm")


def cost(settings: Settings) -> str:
    """What a run computes."""
    cells = _cells(settings)
    features = [round(cell.psi1 * cell.d) for cell in cells]
    seconds = sum(_operations(cell) for cell in cells) * settings.trials / _rate(settings)
    memory = peak_bytes(max(features), settings.psi2 * settings.d[-1]) / 1e9
    return (
        f"{(len(settings.eps) + len(settings.radius_psi1)) * settings.points} theoretical points (milliseconds each), "
        f"and {len(cells)} x {settings.trials} simulated trainings with {min(features)} to {max(features)} features: "
        f"about {duration(seconds)} on one thread, {memory:.1f} GB of memory in each process"
    )


def _rate(settings: Settings) -> float:
    """Operations a second here, on one thread, by simulating one point of middling size."""
    cell = Cell(2.5, 2.0, 0.3, settings.tau, 100, 2, settings.seed)
    with one_thread():
        simulate_cell(dataclasses.replace(cell, d=20), "cpu")  # what a first call costs
        began = time.perf_counter()
        simulate_cell(cell, "cpu")
        return _operations(cell) * cell.trials / (time.perf_counter() - began)


def run(settings: Settings, folder: Path, resources: Resources = DEFAULT_RESOURCES) -> RandomFeaturesResult:
    """Computes the curves and simulates the points, as :meth:`fastat.theory.Experiment.run` says.

    The data are simulated: of the resources only the device matters.

    Raises:
        ArithmeticError: a point or a training could not be certified.
    """
    grid = np.geomspace(settings.psi1_from, settings.psi1_to, settings.points)
    over_features = {
        eps: curve("psi1", grid.tolist(), psi2=settings.psi2, eps=eps, tau=settings.tau) for eps in settings.eps
    }
    over_radius = {}
    for psi1 in settings.radius_psi1:
        limit = critical_eps(psi1, settings.psi2, settings.tau)
        radii = np.linspace(1e-6, 1.3 * limit, settings.points)
        over_radius[psi1] = curve("eps", radii.tolist(), psi1=psi1, psi2=settings.psi2, tau=settings.tau)
    cells = _cells(settings)
    theory = [asymptotics(cell.psi1, cell.psi2, cell.eps, cell.tau) for cell in cells]
    place = str(choose_device(resources.device))
    unlike = list(dict.fromkeys(cells))  # the two lines may share a point
    found = sweep(partial(simulate_cell, device=place), unlike, folder=folder / "cells", label="simulated points")
    rows = [_row(cell, found[unlike.index(cell)], limit) for cell, limit in zip(cells, theory, strict=True)]
    first = len(settings.eps) * len(settings.simulated_psi1) * len(settings.d)
    return RandomFeaturesResult(
        settings,
        [{"eps": eps, **_columns(one), **one.landmarks()._asdict()} for eps, one in over_features.items()],
        [{"psi1": psi1, "eps_c": one.points[0].eps_c, **_columns(one)} for psi1, one in over_radius.items()],
        rows[:first],
        rows[first:],
        max(point.error for one in (*over_features.values(), *over_radius.values()) for point in one.points),
    )


def simulate_cell(cell: Cell, device: str) -> dict[str, Any]:
    """The trials of one point."""
    found = simulate(cell.psi1, cell.psi2, cell.eps, cell.tau, cell.d, cell.trials, seed=cell.seed, device=device)
    return dataclasses.asdict(found)


def _cells(settings: Settings) -> list[Cell]:
    """Those over psi1 for every eps, then those over eps for every psi1."""
    points = [(psi1, eps) for eps in settings.eps for psi1 in settings.simulated_psi1]
    for psi1 in settings.radius_psi1:
        limit = critical_eps(psi1, settings.psi2, settings.tau)
        points += [(psi1, part * limit) for part in settings.radius_parts]
    rest = (settings.trials, settings.seed)
    return [Cell(psi1, settings.psi2, eps, settings.tau, d, *rest) for psi1, eps in points for d in settings.d]


def _operations(cell: Cell) -> float:
    features, samples = cell.psi1 * cell.d, cell.psi2 * cell.d
    small = min(features, samples)
    return features**3 + 2 * features * samples * small + 60 * (samples + small / 3) * small**2


def _columns(one: Curve) -> dict[str, list[float]]:
    return {one.vary + "_values": list(one.values), **{name: one.column(name).tolist() for name in _NAMES}}


def _row(cell: Cell, found: Mapping[str, Sequence[float]], theory: Asymptotics) -> dict[str, Any]:
    row: dict[str, Any] = {
        "psi1": cell.psi1,
        "eps": cell.eps,
        "d": cell.d,
        "eps_c": theory.eps_c,
        "gap": max(found["gap"]),
    }
    for name in _NAMES:
        values = np.array(found[name])
        row[name] = {
            "mean": float(values.mean()),
            "standard_error": float(values.std(ddof=1) / len(values) ** 0.5),
            "theory": getattr(theory, name),
        }
    return row
