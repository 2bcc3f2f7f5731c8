"""The images of the study: a dataset by name, or a small part of it to train on and all others to evaluate on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from fastat import data
from fastat.data import Dataset, Split, chosen_positions


def load_split(
    name: str, train_size: int | None = None, seed: int = 0, *, root: Path | None = None, download: bool = False
) -> Split:
    """A dataset in memory; with ``train_size`` the training images that are left out come after the test images.

    Fewer training images make more test images depend on a single one of them, and more test images make the groups
    larger that accuracies are measured on.

    Args:
        name, root, download: see :func:`fastat.data.load`.
        train_size: number of training images, a random choice; None for the dataset's own halves.
        seed: of that choice.

    Raises:
        ValueError: train_size is not below the number of training images, or an unknown name.
        FileNotFoundError: the dataset is missing.
    """
    split = data.load(name, root, download=download)
    train, test = split.train.load(), split.test.load()
    if train_size is None:
        return Split(train, test)
    chosen = chosen_positions(len(train), train_size, seed)
    if chosen is None:
        raise ValueError(f"train_size must be below the {len(train)} training images of {name}, got {train_size}")
    rest = torch.ones(len(train), dtype=torch.bool)
    rest[chosen] = False
    return Split(train.take(chosen), _joined(test, train.take(rest.nonzero().flatten())))


def _joined(first: Dataset, second: Dataset) -> Dataset:
    images, labels, ids = (
        torch.cat([getattr(first, name), getattr(second, name)]) for name in ("images", "labels", "ids")
    )
    return replace(first, images=images, labels=labels, ids=ids)
