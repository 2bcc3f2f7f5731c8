"""The experiment: memorization, then PGD-AT without atypical samples, and other protocols beside it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from fastat.data import Split, content_digest, dataset_digest
from fastat.theory.contract import DEFAULT_RESOURCES, Resources
from fastat.theory.cost import data_size, training_cost
from fastat.theory.memorization.cells import Cell, train_cell
from fastat.theory.memorization.estimation import estimate
from fastat.theory.memorization.figures import histogram
from fastat.theory.memorization.gallery import gallery
from fastat.theory.memorization.network import group_norm_cnn, small_mlp
from fastat.theory.memorization.removal import Atypical, atypical_samples, removed_counts
from fastat.theory.memorization.result import MemorizationResult
from fastat.theory.memorization.scores import Memorization
from fastat.theory.memorization.settings import PRESETS, Settings, configs
from fastat.theory.memorization.split import load_split
from fastat.theory.memorization.summary import FULL, Bed, curves_of, members, trainings_of
from fastat.theory.sweep import sweep
from fastat.theory.threads import one_thread
from fastat.training import choose_device

__all__ = ["PRESETS", "Settings", "cost", "run"]


def cost(settings: Settings) -> str:
    """What a run trains."""
    return "; ".join(_cost(settings, name) for name in settings.data)


def run(settings: Settings, folder: Path, resources: Resources = DEFAULT_RESOURCES) -> MemorizationResult:
    """Estimates memorization, trains, and compares, as :meth:`fastat.theory.Experiment.run` says.

    The folder then holds, for each dataset, networks.npz (what the networks on subsets got right) and memorization.npz
    (:func:`fastat.theory.memorization.load` reads it), and the finished trainings of all.

    Raises:
        ValueError: also where none of a dataset's training samples is atypical, or the folder holds networks of other
            settings.
        FloatingPointError: a training diverged.
    """
    root, place = resources.data_root, str(choose_device(resources.device))
    studies = {name: _estimate(settings, name, folder, root, resources.download, place) for name in settings.data}
    cells = [cell for name, study in studies.items() for cell in study.cells(settings, name)]
    train = partial(
        train_cell,
        atypical={name: study.atypical for name, study in studies.items()},
        folder=folder / "trainings",
        root=root,
        device=place,
    )
    found = sweep(train, cells, folder=folder / "cells", label="trainings")
    beds = []
    for name, study in studies.items():
        own = [(cell, one) for cell, one in zip(cells, found, strict=True) if cell.config.dataset.data == name]
        fractions = {count: fraction for fraction, count in study.counts.items()}
        trainings, contrasts = trainings_of([c for c, _ in own], [one for _, one in own], fractions, study.groups)
        curves = curves_of([c for c, _ in own], [one for _, one in own])
        beds.append(dataclasses.replace(study.bed, trainings=trainings, contrasts=contrasts, curves=curves))
    return MemorizationResult(settings, beds)


@dataclass(frozen=True)
class _Study:
    """A dataset whose atypical samples are known; of the bed the trainings are missing."""

    atypical: Atypical
    counts: Mapping[float, int]
    groups: Mapping[str, Any]
    samples: str
    bed: Bed

    def cells(self, settings: Settings, name: str) -> list[Cell]:
        """The trainings on this dataset: without some samples, then the protocols on all, for every eps and seed."""
        rest = (settings.train_size, settings.seed, self.samples)
        cells = []
        for config in configs(settings):
            if config.dataset.data != name:
                continue
            on_all = config.method.protocol == FULL
            cells.append(Cell(config, *rest, 0, False, settings.measure_every if on_all else None))
            if on_all:
                removals = [(count, at_random) for count in self.counts.values() for at_random in (False, True)]
                cells += [Cell(config, *rest, *removal, None) for removal in removals]
        return cells


def _estimate(settings: Settings, name: str, folder: Path, root: Path | None, download: bool, device: str) -> _Study:
    split = load_split(name, settings.train_size, settings.seed, root=root, download=download)
    place = folder / re.sub(r"[^\w.-]+", "-", name)
    with one_thread():  # the same rounding whatever the machine has
        memorization = estimate(
            split,
            _network(settings, split),
            settings.networks,
            settings.fraction,
            folder=place,
            recipe=settings.recipe,
            seed=settings.seed,
            models_at_once=settings.models_at_once,
            device=device,
        )
    memorization.save(place / "memorization.npz")
    atypical = atypical_samples(memorization)
    counts = removed_counts(settings.removed, len(atypical.train))
    images = " ".join(dataset_digest(half) for half in (split.train, split.test))
    digest = content_digest(f"{images} {atypical.digest}")
    groups = members(atypical, len(split.train), len(split.test))
    return _Study(atypical, counts, groups, digest, _bed(name, split, memorization, groups))


def _bed(name: str, split: Split, memorization: Memorization, groups: Mapping[str, Any]) -> Bed:
    return Bed(
        data=name,
        title=split.train.title,
        samples={group: int(inside.sum()) for group, inside in groups.items()},
        by_chance=list(memorization.by_chance()),
        ensemble={
            "subset": float(memorization.subset_accuracy.mean()),
            "held_out": float(memorization.held_out_accuracy.mean()),
            "test": float(memorization.test_accuracy.mean()),
        },
        histogram=histogram(memorization),
        gallery=gallery(split.train.load(), memorization.memorization),
        trainings=[],
        contrasts=[],
        curves=[],
    )


def _network(settings: Settings, split: Split) -> Callable[[], nn.Module]:
    channels, height, width = split.train.image_shape
    classes = len(split.train.classes)
    if settings.subset_network == "mlp":
        return partial(small_mlp, classes, channels * height * width, settings.subset_width)
    return partial(group_norm_cnn, classes, channels, settings.subset_width)


def _cost(settings: Settings, name: str) -> str:
    trained = []
    for config in configs(settings):
        if config.dataset.data == name:
            trained += [config] * (1 + 2 * len(settings.removed) if config.method.protocol == FULL else 1)
    subsets = f"{name}: {settings.networks} networks of {settings.subset_epochs} epochs on random subsets"
    images, shape, classes = data_size(name)
    images = images if settings.train_size is None else min(settings.train_size, images)
    passes = settings.networks * settings.subset_epochs * round(settings.fraction * images)
    return f"{subsets} ({passes:.3g} passes of an image), and {training_cost(trained, images, shape, classes)}"
