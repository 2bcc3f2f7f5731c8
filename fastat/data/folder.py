"""Images in folders: one folder per split, in it one per class."""

from __future__ import annotations

from pathlib import Path

import torch

from fastat.data.dataset import Dataset, make_dataset
from fastat.data.image_files import image_files, mode_and_size, read_images
from fastat.data.splits import Split
from fastat.data.streamed import Streamed

_MOST_BYTES = 2 << 30
_HALVES = ("train", "test")


def load_folder(path: Path, title: str) -> Split:
    """Images of ``path/train/<class>/*`` and ``path/test/<class>/*``; the class names in alphabetical order.

    They are kept in memory if they have one size and take at most 2 GiB; they stay grey if the first one is grey, else
    all are read as RGB. Other images are read from the disk as they are needed: see :class:`Streamed`.

    Raises:
        FileNotFoundError: a split is missing or has no image.
        ValueError: the two splits have different classes.
    """
    classes = class_folders(path / "train")
    if (found := class_folders(path / "test")) != classes:
        different = ", ".join(sorted(set(classes) ^ set(found)))
        raise ValueError(f"{path / 'train'} and {path / 'test'} do not hold the same classes: {different}")
    halves = [labelled_files(path / half, classes) for half in _HALVES]
    everything = [file for files, _ in halves for file in files]
    mode, (width, height) = mode_and_size(everything[0])
    one_size = all(mode_and_size(file)[1] == (width, height) for file in everything)
    if not one_size or len(everything) * width * height * len(mode) > _MOST_BYTES:
        return Split(*(Streamed.of(title, files, labels, classes) for files, labels in halves))
    return Split(*(_in_memory(title, files, labels, classes, mode) for files, labels in halves))


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


def _in_memory(title: str, files: tuple[Path, ...], labels: list[int], classes: tuple[str, ...], mode: str) -> Dataset:
    return make_dataset(title, read_images(files, mode), torch.tensor(labels), classes)
