"""The experiment: the grid of amplitudes and radii, other methods where FGSM collapses, and what networks go by."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from fastat import data
from fastat.data import Dataset
from fastat.theory.catastrophic.cell import train_config
from fastat.theory.catastrophic.outcome import CatastrophicResult
from fastat.theory.catastrophic.settings import PRESETS, Settings, cells
from fastat.theory.catastrophic.sweeping import run_cells
from fastat.theory.catastrophic.trainings import Example
from fastat.theory.contract import DEFAULT_RESOURCES, Resources
from fastat.theory.cost import data_size, training_cost

__all__ = ["PRESETS", "Settings", "cost", "run"]


def cost(settings: Settings) -> str:
    """What a run will train, and what that costs on this machine."""
    chosen = cells(settings)
    configs = [train_config(cell) for cell in chosen]
    looks = len(chosen) * -(-settings.epochs // settings.measure_every)
    train_images, shape, num_classes = data_size(settings.data)
    return (
        f"{training_cost(configs, train_images, shape, num_classes)}\n"
        f"networks are looked at {looks} times, with FGSM and {settings.attack} on "
        f"{settings.test_size or 'all'} test images"
    )


def run(settings: Settings, folder: Path, resources: Resources = DEFAULT_RESOURCES) -> CatastrophicResult:
    """Runs it as :meth:`fastat.theory.Experiment.run` says."""
    test = data.load(settings.data, resources.data_root, download=resources.download).test.load()
    outcomes = run_cells(cells(settings), folder, **asdict(resources))
    images = len(test.subset(settings.test_size, 0))
    return CatastrophicResult(settings, outcomes, _example(test), images)


def _example(test: Dataset) -> Example:
    """The first test image of class 0."""
    place = int((test.labels == 0).nonzero()[0])
    return Example(test.title, test.classes, test.pixels(test.images[place]).tolist(), int(test.labels[place]))
