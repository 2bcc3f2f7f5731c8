"""Datasets by name, each a pair of in-memory splits. Nothing is ever downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fastat.data.augment import AUGMENTATIONS, augment
from fastat.data.cifar10 import load_cifar10
from fastat.data.dataset import Dataset, Split, channel_statistics, make_dataset
from fastat.data.digits import load_digits
from fastat.data.folder import load_folder
from fastat.data.label_noise import flip_labels
from fastat.data.mnist import load_mnist

__all__ = [
    "AUGMENTATIONS",
    "Dataset",
    "Split",
    "augment",
    "channel_statistics",
    "flip_labels",
    "load",
    "make_dataset",
    "names",
]

_LOADERS: dict[str, Callable[[Path | None], Split]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
}


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows besides ``folder:PATH``."""
    return tuple(_LOADERS)


def load(name: str, root: str | Path | None = None) -> Split:
    """The train and test images of a dataset, in memory.

    Args:
        name: "digits" (part of scikit-learn), "mnist", "cifar10", or "folder:PATH" for images in
            PATH/train/<class>/ and PATH/test/<class>/.
        root: the folder that holds the datasets; by default the environment variable FASTAT_DATA.

    Raises:
        FileNotFoundError: a file is missing; the message says what to put where.
        ValueError: an unknown name, or files that are not what they should be.
    """
    if name.startswith("folder:"):
        path = Path(name.removeprefix("folder:")).expanduser()
        return load_folder(path, path.resolve().name)
    if name not in _LOADERS:
        raise ValueError(f"unknown dataset {name!r}; known are {', '.join(_LOADERS)} and folder:PATH")
    chosen = root if root is not None else os.environ.get("FASTAT_DATA")
    return _LOADERS[name](Path(chosen).expanduser() if chosen else None)
