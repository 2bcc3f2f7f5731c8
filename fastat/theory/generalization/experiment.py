"""What HR guarantees, measured: samples drawn again and again for linear models, several seeds for networks."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

from fastat import data
from fastat.theory.contract import DEFAULT_RESOURCES, Resources
from fastat.theory.cost import data_size, training_cost
from fastat.theory.generalization.disappointment import LinearCell, LinearOutcome, linear_outcome
from fastat.theory.generalization.networks import ATTACK, NetworkOutcome, network_outcome
from fastat.theory.generalization.outcome import GeneralizationResult
from fastat.theory.generalization.settings import (
    PRESETS,
    Settings,
    corruption_cells,
    network_cells,
    optimism_cells,
    rate_cells,
)
from fastat.theory.sweep import sweep

__all__ = ["PRESETS", "Settings", "cost", "run"]

_CELLS, _RUNS = "cells", "runs"


def cost(settings: Settings) -> str:
    """What a run will do, counted: linear models, and trainings of networks."""
    cells = [*rate_cells(settings), *corruption_cells(settings), *optimism_cells(settings)]
    networks = network_cells(settings)
    images, shape, classes = data_size(settings.data)
    looks = len(networks) * -(-settings.epochs // settings.measure_every)
    return (
        f"{len(cells)} curve points of {settings.samples:,} linear models each, in {settings.dimension} dimensions, on "
        f"{min(cell.n for cell in cells)} to {max(cell.n for cell in cells)} points\n"
        f"{training_cost([cell.config for cell in networks], images, shape, classes)}\n"
        f"each network is measured {looks // len(networks)} times, by {ATTACK} on "
        f"{min(images, settings.train_size or images):,} training and {settings.test_size or 'all'} test images"
    )


def run(settings: Settings, folder: Path, resources: Resources = DEFAULT_RESOURCES) -> GeneralizationResult:
    """Runs it as :meth:`fastat.theory.Experiment.run` says."""
    linear = functools.partial(linear_outcome, device=resources.device)
    networks = functools.partial(network_outcome, folder=folder / _RUNS, **dataclasses.asdict(resources))

    def linear_outcomes(cells: list[LinearCell], label: str) -> list[LinearOutcome]:
        found = sweep(linear, cells, folder=folder / _CELLS, label=label)
        return [LinearOutcome(cell, **numbers) for cell, numbers in zip(cells, found, strict=True)]

    if resources.download:
        data.load(settings.data, resources.data_root, download=True)  # once, before processes share the work
    rates = linear_outcomes(rate_cells(settings), "linear, r and n")
    corruptions = linear_outcomes(corruption_cells(settings), "linear, alpha")
    optimism = linear_outcomes(optimism_cells(settings), "linear, eps")
    cells = network_cells(settings)
    trained = sweep(networks, cells, folder=folder / _CELLS, label="networks")
    return GeneralizationResult(
        settings,
        rates,
        corruptions,
        optimism,
        [NetworkOutcome(cell, **numbers) for cell, numbers in zip(cells, trained, strict=True)],
    )
