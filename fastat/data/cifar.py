"""CIFAR-10 and CIFAR-100 from the original pickled batches; CIFAR-10 also from a folder of JPEG files."""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastat.data.dataset import Split, make_dataset
from fastat.data.folder import load_folder

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
        halves = (_read_batches("CIFAR-10", batches, names, b"labels") for names in (_TRAIN_FILES, _TEST_FILES))
        return Split(*(make_dataset("CIFAR-10", images, labels, _CLASSES) for images, labels in halves))
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
    classes = tuple(name.decode() for name in _unpickle("CIFAR-100", folder, "meta")[b"fine_label_names"])
    halves = (_read_batches("CIFAR-100", folder, (name,), b"fine_labels") for name in ("train", "test"))
    return Split(*(make_dataset("CIFAR-100", images, labels, classes) for images, labels in halves))


def _read_batches(title: str, folder: Path, names: tuple[str, ...], kind: bytes) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] and labels int64 [N] of the files together."""
    images, labels = [], []
    for name in names:
        batch = _unpickle(title, folder, name)
        try:
            images.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
            labels.extend(batch[kind])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / name} is not a batch of {title}: {error!r}") from error
    return torch.from_numpy(np.concatenate(images)), torch.tensor(labels)


def _unpickle(title: str, folder: Path, name: str) -> Any:
    file = folder / name
    if not file.exists():
        raise FileNotFoundError(f"{title}: {file} is missing; unpack {_ARCHIVES[title]} again")
    with file.open("rb") as stream:
        try:
            return _ArrayUnpickler(stream, encoding="bytes").load()
        except (EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{file} is not a whole pickle: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays and plain values only: a pickle could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.startswith("numpy"):
            return np.ndarray.__reduce__(np.empty(0))[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise ValueError(f"a CIFAR batch should hold only arrays, found {module}.{name}")
