"""The experiment: a memorizer and its bill, networks over width, and training runs on patch data."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastat import data
from fastat.theory.cgro.networks import (
    CountCell,
    MemorizerCell,
    WidthCell,
    count_outcome,
    memorizer_outcome,
    standard_config,
    width_config,
    width_outcome,
)
from fastat.theory.cgro.outcome import CgroResult
from fastat.theory.cgro.runs import DynamicsCell, dynamics_outcome, trajectory
from fastat.theory.contract import DEFAULT_RESOURCES, Resources
from fastat.theory.cost import data_size, training_cost
from fastat.theory.sweep import sweep
from fastat.training import check_config

_SHARES = (16, 8, 4, 2, 1)  # the parameters are counted for one in so many of the points
_ENLARGED = (1, 2, 3, 4)


@dataclass(frozen=True)
class Settings:
    """What is built, trained and looked at."""

    data: tuple[str, ...] = ("digits",)
    """Datasets of the networks."""
    deltas: tuple[float, ...] = (0.15,)
    """Radius of the linf balls for each of these."""
    points: int | None = None
    """Training images that are memorized, a random choice; all if not given."""
    standard_epochs: int = 10
    """Passes of the training without attack that a memorizer's network comes from."""
    standard_width: int = 16
    """Width of that network, a small CNN."""
    widths: tuple[int, ...] = (4, 8, 16, 32)
    """Widths of the adversarially trained networks, small CNNs."""
    epochs: int = 30
    """Passes of their training."""
    batch_size: int = 64
    """Images per step of it."""
    train_size: int | None = 400
    """Images that they are trained on, a random choice; all if not given."""
    network_seeds: int = 3
    """Networks, and memorizers, of each kind."""
    attack: str = "pgd-20"
    """Attack that robust accuracies are measured by: pgd-STEPS or pgd-STEPSxRESTARTS."""
    eval_size: int | None = None
    """Training and test images that they are measured on, a random choice each; all if not given."""
    dynamics: tuple[tuple[float, float], ...] = ((0.8, 0.86), (0.85, 0.6), (0.9, 0.4))
    """(delta, sigma) of the training runs on patch data; the first one is that of the phase diagram over N."""
    dynamics_seeds: int = 12
    """Runs of each."""
    phase_deltas: tuple[float, ...] = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    """Radii of both phase diagrams, below 1, the strength of the signal."""
    phase_sigmas: tuple[float, ...] = (0.2, 0.4, 0.6, 0.86, 1.2, 1.6)
    """Noise of the one phase diagram."""
    phase_sizes: tuple[int, ...] = (10, 20, 40, 80, 160)
    """Training samples N of the other."""
    phase_seeds: int = 6
    """Runs of each place in them."""
    max_steps: int = 10_000
    """Steps after which a run on patch data is given up."""
    seed: int = 0
    """First of the seeds."""

    def __post_init__(self) -> None:
        for name in ("data", "widths", "dynamics", "phase_deltas", "phase_sigmas", "phase_sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must hold different values, at least one, got {values}")
        if len(self.deltas) != len(self.data) or not all(0 < delta < 1 for delta in self.deltas):
            raise ValueError(f"deltas must be a number in (0, 1) for each of {self.data}, got {self.deltas}")
        for name in ("network_seeds", "dynamics_seeds", "phase_seeds", "max_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, least in (("points", 2 * _SHARES[0]), ("train_size", 2), ("eval_size", 1)):
            size = getattr(self, name)
            if size is not None and size < least:
                raise ValueError(f"{name} must be at least {least} if given, got {size}")
        if not re.fullmatch(r"pgd-[1-9]\d*(x[1-9]\d*)?", self.attack):
            raise ValueError(f"attack must be pgd-STEPS or pgd-STEPSxRESTARTS, got {self.attack!r}")
        radii = [*self.phase_deltas, *(delta for delta, _ in self.dynamics)]
        if not all(0 < delta < 1 for delta in radii):
            raise ValueError(f"phase_deltas and the radii of dynamics must be in (0, 1), got {radii}")
        noises = [*self.phase_sigmas, *(sigma for _, sigma in self.dynamics)]
        if min(noises) <= 0 or min(self.phase_sizes) < 1:
            raise ValueError(f"noise must be above 0 and N at least 1, got {noises} and {self.phase_sizes}")
        for config in [*map(standard_config, memorizer_cells(self)), *map(width_config, width_cells(self))]:
            check_config(config)


def _seeds(settings: Settings, count: int) -> range:
    return range(settings.seed, settings.seed + count)


def _on_images(settings: Settings) -> list[dict[str, Any]]:
    """What memorizers and networks over width share, for each dataset: the radius, and how they are evaluated."""
    evaluated = {"attack": settings.attack, "eval_size": settings.eval_size}
    return [
        {"data": name, "delta": delta, **evaluated} for name, delta in zip(settings.data, settings.deltas, strict=True)
    ]


def memorizer_cells(settings: Settings) -> list[MemorizerCell]:
    """The memorizers, of every dataset and seed."""
    return [
        MemorizerCell(
            **shared,
            width=settings.standard_width,
            epochs=settings.standard_epochs,
            points=settings.points,
            seed=seed,
        )
        for shared in _on_images(settings)
        for seed in _seeds(settings, settings.network_seeds)
    ]


def width_cells(settings: Settings) -> list[WidthCell]:
    """The adversarially trained networks, of every dataset, width and seed."""
    return [
        WidthCell(
            **shared,
            width=width,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            train_size=settings.train_size,
            seed=seed,
        )
        for shared in _on_images(settings)
        for width in settings.widths
        for seed in _seeds(settings, settings.network_seeds)
    ]


def count_cells(settings: Settings, images: dict[str, int]) -> list[CountCell]:
    """The memorizers whose parameters are counted: over the points, and over the size of few points' images."""
    cells = []
    for name, delta in zip(settings.data, settings.deltas, strict=True):
        every = min(images[name], settings.points or images[name])
        sizes = [(every // share, 1) for share in _SHARES] + [(every // _SHARES[0], scale) for scale in _ENLARGED[1:]]
        cells += [CountCell(name, delta, points, enlarged, settings.seed) for points, enlarged in sizes]
    return cells


def dynamics_cells(settings: Settings) -> list[DynamicsCell]:
    """The runs of the settings that were given, every seed."""
    return [
        DynamicsCell(delta, sigma, max_steps=settings.max_steps, seed=seed)
        for delta, sigma in settings.dynamics
        for seed in _seeds(settings, settings.dynamics_seeds)
    ]


def sigma_cells(settings: Settings) -> list[DynamicsCell]:
    """The runs of the phase diagram over delta and sigma."""
    return [
        DynamicsCell(delta, sigma, max_steps=settings.max_steps, seed=seed)
        for delta in settings.phase_deltas
        for sigma in settings.phase_sigmas
        for seed in _seeds(settings, settings.phase_seeds)
    ]


def size_cells(settings: Settings) -> list[DynamicsCell]:
    """The runs of the phase diagram over delta and N."""
    sigma = settings.dynamics[0][1]
    return [
        DynamicsCell(delta, sigma, n, max_steps=settings.max_steps, seed=seed)
        for delta in settings.phase_deltas
        for n in settings.phase_sizes
        for seed in _seeds(settings, settings.phase_seeds)
    ]


PRESETS: dict[str, Settings] = {
    "quick": Settings(),
    "paper": Settings(
        data=("mnist", "cifar10"),
        deltas=(0.3, 8 / 255),
        standard_width=32,
        widths=(4, 8, 16, 32, 64),
        epochs=30,
        batch_size=128,
        train_size=None,
        eval_size=2000,
        dynamics_seeds=50,
        phase_deltas=(0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
        phase_sigmas=(0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.86, 1.0, 1.2, 1.6),
        phase_sizes=(10, 20, 40, 80, 160, 320),
        phase_seeds=12,
        max_steps=40_000,
    ),
}


def cost(settings: Settings) -> str:
    """What a run will do, counted: trainings, balls and attacks on them, and runs on patch data."""
    lines = []
    for name, delta in zip(settings.data, settings.deltas, strict=True):
        images, shape, classes = data_size(name)
        points = min(images, settings.points or images)
        plain = [standard_config(cell) for cell in memorizer_cells(settings) if cell.data == name]
        attacked = [width_config(cell) for cell in width_cells(settings) if cell.data == name]
        lines += [
            f"{name}: without attack {training_cost(plain, points, shape, classes)}",
            f"{name}: {settings.attack}-measured, "
            f"{training_cost(attacked, min(images, settings.train_size or images), shape, classes)}",
            f"{name}: {len(plain)} memorizers of {points:,} balls of radius {delta:g}, all pairs of which are compared",
        ]
    runs = [*dynamics_cells(settings), *sigma_cells(settings), *size_cells(settings)]
    lines.append(f"{len(set(runs))} training runs on patch data, of {settings.max_steps:,} steps at most")
    return "\n".join(lines)


def run(settings: Settings, folder: Path, resources: Resources = DEFAULT_RESOURCES) -> CgroResult:
    """Runs it as :meth:`fastat.theory.Experiment.run` says.

    Raises:
        ValueError: also where delta is too large for the balls of different classes.
    """
    data_root, device = resources.data_root, resources.device
    images = {name: len(data.load(name, data_root, download=resources.download).train) for name in settings.data}
    cells = folder / "cells"
    places: dict[str, Any] = {"folder": folder / "runs", "data_root": data_root, "device": device}
    on_patches = functools.partial(dynamics_outcome, device=device)
    memorizers = sweep(
        functools.partial(memorizer_outcome, **places), memorizer_cells(settings), folder=cells, label="memorizers"
    )
    counted = functools.partial(count_outcome, data_root=data_root, device=device)
    counts = sweep(counted, count_cells(settings, images), folder=cells, label="parameters")
    widths = sweep(
        functools.partial(width_outcome, **places), width_cells(settings), folder=cells, label="networks over width"
    )
    dynamics = sweep(on_patches, dynamics_cells(settings), folder=cells, label="training runs on patches")
    over_sigma = sweep(on_patches, sigma_cells(settings), folder=cells, label="phase diagram over sigma")
    over_size = sweep(on_patches, size_cells(settings), folder=cells, label="phase diagram over N")
    shown = [cell for cell in dynamics_cells(settings) if cell.seed == settings.seed]
    trajectories = sweep(functools.partial(trajectory, device=device), shown, folder=cells, label="trajectories")
    return CgroResult(settings, memorizers, counts, widths, dynamics, over_sigma, over_size, trajectories)
