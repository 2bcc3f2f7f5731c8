"""One adversarial training of the study, and what became right by it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastat.data import Dataset, Split
from fastat.theory.digest import cell_fields, json_digest
from fastat.theory.memorization.groups import ATTACK, evaluate_samples, group_measure, in_two
from fastat.theory.memorization.removal import Atypical, kept_positions
from fastat.theory.memorization.split import load_split
from fastat.training import TrainConfig, train_configured

KINDS = ("clean", ATTACK)


@dataclass(frozen=True)
class Cell:
    """A training, and everything that decides its numbers.

    Attributes:
        config: the training; its seed is also that of a random removal.
        split_size: training images before the removal; None for the dataset's own halves.
        split_seed: of their choice.
        samples: the digest of images and atypical samples.
        removed: training samples that are removed.
        at_random: whether these are random ones, in place of the most memorized.
        measure_every: epochs between two measurements of the groups; None for no measurement before the end.
    """

    config: TrainConfig
    split_size: int | None
    split_seed: int
    samples: str
    removed: int
    at_random: bool
    measure_every: int | None

    @property
    def name(self) -> str:
        """A folder's name, with a digest of the cell."""
        return json_digest(cell_fields(self), 16)


def train_cell(
    cell: Cell, *, atypical: Mapping[str, Atypical], folder: Path, root: Path | None, device: str
) -> dict[str, Any]:
    """Trains on what is left of the training samples and evaluates on all samples, the removed ones too.

    Args:
        cell: what to train.
        atypical: by the name of the dataset, that of ``cell.samples``.
        folder: holds the run while it is trained, to be continued if it is stopped.
        root: the folder of the datasets.
        device: where to train.

    Returns:
        "train" and "test": which samples are right, clean and under PGD-10, a string of 0 and 1 each (:func:`right`
        reads it); "curve": accuracies of the groups by epoch, empty where none are measured.
    """
    config = cell.config
    split = load_split(config.dataset.data, cell.split_size, cell.split_seed, root=root)
    known = atypical[config.dataset.data]
    kept = kept_positions(len(split.train), known, cell.removed, at_random=cell.at_random, seed=config.run.seed)
    run = folder / cell.name
    network = train_configured(
        config,
        run,
        split=Split(split.train.take(kept), split.test),
        device=device,
        quiet=True,
        measure=None if cell.measure_every is None else group_measure(_groups(split, known, device), config),
        measure_every=cell.measure_every or 1,
    )
    found = {
        "train": _outcomes(network.model, split.train.load().to(device), config),
        "test": _outcomes(network.model, split.test.load().to(device), config),
        "curve": [{"epoch": row["epoch"], **row["measured"]} for row in network.history if row["measured"]],
    }
    shutil.rmtree(run)  # hundreds of networks that nobody asks for
    return found


def right(outcome: str) -> NDArray[np.bool_]:
    """bool [N], from a string of N digits 0 and 1."""
    return np.frombuffer(outcome.encode(), np.uint8) == ord("1")


def _groups(split: Split, atypical: Atypical, device: str) -> dict[str, Dataset]:
    """Typical and atypical samples of either half, on the device."""
    groups: dict[str, Dataset] = {}
    for half, dataset, positions in (("train", split.train, atypical.train), ("test", split.test, atypical.test)):
        chosen = torch.zeros(len(dataset), dtype=torch.bool)
        chosen[list(positions)] = True
        groups |= {f"{kind} {half}": group for kind, group in in_two(dataset.load().to(device), chosen).items()}
    return groups


def _outcomes(model: nn.Module, dataset: Dataset, config: TrainConfig) -> dict[str, str]:
    correct = evaluate_samples(model, dataset, config.threat.threat_model, config.run.seed).correct
    return {kind: "".join(map(str, correct[kind].int().tolist())) for kind in KINDS}
