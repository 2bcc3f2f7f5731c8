"""Datasets by name, each a pair of splits. Nothing is downloaded unless it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fastat.data.augment import AUGMENTATIONS, Augmentation, augment, check_augment
from fastat.data.cifar import load_cifar10, load_cifar100
from fastat.data.config import DataConfig
from fastat.data.dataset import Batch, Dataset, chosen_positions, make_dataset
from fastat.data.digits import load_digits
from fastat.data.folder import load_folder
from fastat.data.given import Given, as_dataset, check_same_classes, own_split, with_classes
from fastat.data.imagenet import load_imagenet, load_tiny_imagenet
from fastat.data.label_noise import flip_labels
from fastat.data.mapped import Mapped
from fastat.data.mnist import load_fashion_mnist, load_mnist
from fastat.data.splits import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AnyDataset,
    Split,
    channel_statistics,
    content_digest,
    dataset_digest,
    held_out,
)
from fastat.data.streamed import Streamed
from fastat.data.svhn import load_svhn
from fastat.data.tensors import load_tensors
from fastat.support import did_you_mean, is_function_name

__all__ = [
    "AUGMENTATIONS",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "AnyDataset",
    "Augmentation",
    "Batch",
    "DataConfig",
    "Dataset",
    "Given",
    "Mapped",
    "Split",
    "Streamed",
    "as_dataset",
    "augment",
    "channel_statistics",
    "check_augment",
    "check_name",
    "check_same_classes",
    "chosen_positions",
    "content_digest",
    "dataset_digest",
    "flip_labels",
    "held_out",
    "is_own",
    "load",
    "make_dataset",
    "names",
    "with_classes",
]

_PLACES = ("folder:", "tensors:")
_LOADERS: dict[str, Callable[[Path], Split]] = {
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "cifar100": load_cifar100,
    "svhn": load_svhn,
    "tiny-imagenet": load_tiny_imagenet,
    "imagenet": load_imagenet,
}


def names() -> tuple[str, ...]:
    """The names that :func:`load` knows besides ``folder:PATH``, ``tensors:FILE.npz`` and functions of one's own."""
    return ("digits", *_LOADERS)


def is_own(name: str) -> bool:
    """Whether the name of a dataset is that of a function."""
    return is_function_name(name) and not name.startswith(_PLACES)


def check_name(name: str) -> None:
    """Raises ValueError for a name that :func:`load` does not know; its message has those that it does."""
    if name not in names() and not name.startswith(_PLACES) and not is_own(name):
        known = f"{', '.join(names())}, folder:PATH, tensors:FILE.npz, package.module:function"
        raise ValueError(f"data must be one of {known}, got {name!r}{did_you_mean(name, names())}")


def load(name: str, root: str | Path | None = None, *, download: bool = False) -> Split:
    """The train and test images of a dataset; all but "imagenet" and large folders in memory.

    Args:
        name: "digits" (part of scikit-learn), "mnist", "fashion-mnist", "cifar10", "cifar100", "svhn", "tiny-imagenet",
            "imagenet", "tensors:FILE.npz" (:func:`fastat.data.load_tensors`), "folder:PATH" for images in
            PATH/train/<class>/ and PATH/test/<class>/, or "package.module:function" for one's own, which returns a pair
            (train, test) of what :func:`as_dataset` takes, or a :class:`Split`.
        root: the folder that holds the datasets; by default the environment variable FASTAT_DATA.
        download: fetch what is missing into that folder.

    Raises:
        FileNotFoundError: a file is missing, or its download failed; the message says what to put where.
        ValueError: an unknown name, or files that are not what they should be.
    """
    check_name(name)
    if is_own(name):
        return own_split(name)
    kind, _, place = name.partition(":")
    if kind == "folder":
        path = Path(place).expanduser()
        return load_folder(path, path.resolve().name)
    if kind == "tensors":
        return load_tensors(Path(place).expanduser())
    if name == "digits":
        return load_digits()
    chosen = root if root is not None else os.environ.get("FASTAT_DATA")
    if not chosen:
        raise FileNotFoundError(f"{name} needs a folder: give root (--data-root), or set FASTAT_DATA")
    folder = Path(chosen).expanduser()
    try:
        return _LOADERS[name](folder)
    except FileNotFoundError as error:
        from fastat.data.download import SOURCES, fetch  # slow to import

        if name not in SOURCES:
            hint = "; --download cannot fetch it: its authors give it on request" if download else ""
            raise FileNotFoundError(f"{error}{hint}") from error
        if not download:
            raise FileNotFoundError(f"{error}. --download (download=True) fetches it") from error
    fetch(name, folder)
    return _LOADERS[name](folder)
