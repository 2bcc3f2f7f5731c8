"""Images in folders: one folder per split, in it one per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fastat.data.dataset import make_dataset
from fastat.data.image_cache import read_images_once
from fastat.data.image_files import OtherSizeError, image_files, mode_and_size
from fastat.data.splits import Split
from fastat.data.streamed import Streamed

_MOST_BYTES = 2 << 30
_HALVES = ("train", "test")
_OTHER_NAME = "val"
"""Of the test half, where there is none."""


def load_folder(path: Path, title: str) -> Split:
    """Images of ``path/train/<class>/*`` and ``path/test/<class>/*``, which may be called ``val``; the class names in
    alphabetical order.

    They are kept in memory if they have one size and take at most 2 GiB; they stay grey if the first one is grey, else
    all are read as RGB. All are decoded, once (:func:`read_images_once`), also where a run takes a few: whether they
    have one size, and the statistics of the channels, need all. Other images are read from the disk as they are needed:
    see :class:`Streamed`.

    Raises:
        FileNotFoundError: a split is missing or has no image.
        ValueError: the two splits have different classes, or a file is no image.
    """
    train, test = (path / half for half in _HALVES)
    if not test.is_dir() and (path / _OTHER_NAME).is_dir():
        test = path / _OTHER_NAME
    classes = class_folders(train)
    if (found := class_folders(test)) != classes:
        different = ", ".join(sorted(set(classes) ^ set(found)))
        raise ValueError(f"{train} and {test} do not hold the same classes: {different}")
    halves = [labelled_files(half, classes) for half in (train, test)]
    images = _of_one_size(path, [file for files, _ in halves for file in files])
    if images is None:
        return Split(*(Streamed.of(title, files, labels, classes) for files, labels in halves))
    return in_memory(title, images, [labels for _, labels in halves], classes)


def class_folders(folder: Path) -> tuple[str, ...]:
    """The names of the folders in a split's folder, which are its classes.

    Raises:
        FileNotFoundError: there are none.
    """
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) if folder.is_dir() else ()
    if not names:
        raise FileNotFoundError(f"{folder} is missing or empty; put the images in {folder}/<class>/*.jpg (or png)")
    return names


def labelled_files(folder: Path, classes: tuple[str, ...]) -> tuple[tuple[Path, ...], list[int]]:
    """All images of a split, class by class, and their labels.

    Raises:
        FileNotFoundError: a class has none.
    """
    found = [(file, label) for label, name in enumerate(classes) for file in image_files(folder / name)]
    return tuple(file for file, _ in found), [label for _, label in found]


def in_memory(title: str, images: Tensor, labels: Sequence[list[int]], classes: tuple[str, ...]) -> Split:
    """The images of the train split and then those of the test split, with the labels of each."""
    parts = zip(images.split([len(some) for some in labels]), labels, strict=True)
    return Split(*(make_dataset(title, part, torch.tensor(some), classes) for part, some in parts))


def _of_one_size(path: Path, files: list[Path]) -> Tensor | None:
    """The images, or None if they are large or of different sizes."""
    mode, size = mode_and_size(files[0])
    if len(files) * size[0] * size[1] * len(mode) > _MOST_BYTES:
        return None
    try:
        return read_images_once(path, files, mode, size)
    except OtherSizeError:
        return None
