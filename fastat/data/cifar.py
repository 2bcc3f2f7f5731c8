"""CIFAR-10 and CIFAR-100 from the original pickled batches; CIFAR-10 also from a folder of JPEG files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastat.data.cifar_pickle import read_batch
from fastat.data.dataset import Dataset, make_dataset
from fastat.data.folder import load_folder
from fastat.data.splits import Split

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST_FILES = ("test_batch",)
_ARCHIVES = {"CIFAR-10": "cifar-10-python.tar.gz", "CIFAR-100": "cifar-100-python.tar.gz"}


def load_cifar10(root: Path) -> Split:
    """The 50,000 + 10,000 images of 32x32, from the first of these that exists:

    - ``root/cifar-10-batches-py``, the unpacked archive of the authors, as torchvision keeps it;
    - ``root/cifar10-jpeg/{train,test}/<class>/*.jpg``. JPEG is lossy, so the title is then "CIFAR-10 (JPEG)": its
      numbers are not those of CIFAR-10.

    Raises:
        FileNotFoundError: neither is there; the message says what to put where.
        ValueError: a batch file is not what it should be.
    """
    batches, images = root / "cifar-10-batches-py", root / "cifar10-jpeg"
    if batches.is_dir():
        halves = (_TRAIN_FILES, _TEST_FILES)
        return Split(*(_read_half("CIFAR-10", batches, names, b"labels", _CLASSES) for names in halves))
    if images.is_dir():
        return load_folder(images, "CIFAR-10 (JPEG)")
    raise FileNotFoundError(
        f"CIFAR-10: unpack cifar-10-python.tar.gz to {batches}, or put the images in {images}/{{train,test}}/<class>/"
    )


def load_cifar100(root: Path) -> Split:
    """The 50,000 + 10,000 images of 32x32 with their 100 fine labels from ``root/cifar-100-python``.

    Raises:
        FileNotFoundError: a file is missing; the message says what to put where.
        ValueError: a file is not what it should be.
    """
    folder = root / "cifar-100-python"
    if not folder.is_dir():
        raise FileNotFoundError(f"CIFAR-100: unpack cifar-100-python.tar.gz to {folder}")
    classes = _class_names(folder)
    return Split(*(_read_half("CIFAR-100", folder, (half,), b"fine_labels", classes) for half in ("train", "test")))


def _read_half(title: str, folder: Path, names: tuple[str, ...], kind: bytes, classes: tuple[str, ...]) -> Dataset:
    """The images of the files together, with the labels of that kind."""
    parts = [_read_batch(title, folder, name, kind, len(classes)) for name in names]
    images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
    return make_dataset(title, images, labels, classes)


def _read_batch(title: str, folder: Path, name: str, kind: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of a file."""
    batch = _unpickle(title, folder, name)
    try:
        images, labels = batch.get(b"data"), batch.get(kind)
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
            raise TypeError("its data must be an array of uint8")
        if isinstance(labels, list) and all(type(label) is int for label in labels):
            labels = np.array(labels, dtype=np.int64)
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
            raise TypeError(f"its {kind.decode()} must be integers")
        images = images.reshape(-1, 3, 32, 32)
        if labels.shape != images.shape[:1]:
            raise ValueError(f"{len(images)} images and labels {list(labels.shape)}")
        if len(labels) > 0 and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(f"labels must be in 0..{classes - 1}, got {labels.min()}..{labels.max()}")
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{folder / name} is not a batch of {title}: {error}") from error
    return images, labels.astype(np.int64)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = _unpickle("CIFAR-100", folder, "meta").get(b"fine_label_names")
    if not isinstance(names, list) or len(names) != 100 or not all(map(_is_name, names)):
        raise ValueError(f"{folder / 'meta'} is not that of CIFAR-100: its fine_label_names must be 100 names")
    return tuple(name.decode() for name in names)


def _is_name(name: object) -> bool:
    return isinstance(name, bytes) and re.fullmatch(rb"[\w .-]{1,100}", name) is not None


def _unpickle(title: str, folder: Path, name: str) -> dict[Any, Any]:
    if not (folder / name).exists():
        raise FileNotFoundError(f"{title}: {folder / name} is missing; unpack {_ARCHIVES[title]} again")
    return read_batch(folder / name, title)
