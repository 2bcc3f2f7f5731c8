"""CIFAR-10 from the original pickled batches, or from a folder of its images as JPEG files."""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastat.data.dataset import Dataset, Split, make_dataset
from fastat.data.folder import load_folder

_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN_FILES = tuple(f"data_batch_{number}" for number in range(1, 6))
_TEST_FILES = ("test_batch",)


def load_cifar10(root: Path | None) -> Split:
    """The 50,000 + 10,000 images of 32x32, from the first of these that exists:

    - ``root/cifar-10-batches-py``, the unpacked archive of the authors, as torchvision keeps it;
    - ``root/cifar10-jpeg/{train,test}/<class>/*.jpg``. JPEG is lossy, so the title is then "CIFAR-10 (JPEG)": its
      numbers are not those of CIFAR-10.

    Raises:
        FileNotFoundError: neither is there; the message says what to put where.
        ValueError: a batch file is not what it should be.
    """
    if root is None:
        raise FileNotFoundError(
            "cifar10 needs a folder: give root, or set FASTAT_DATA, and put cifar-10-batches-py/ there"
        )
    batches, images = root / "cifar-10-batches-py", root / "cifar10-jpeg"
    if batches.is_dir():
        return Split(_read_batches(batches, _TRAIN_FILES), _read_batches(batches, _TEST_FILES))
    if images.is_dir():
        return load_folder(images, "CIFAR-10 (JPEG)")
    raise FileNotFoundError(
        f"CIFAR-10: unpack cifar-10-python.tar.gz to {batches}, or put the images in {images}/{{train,test}}/<class>/"
    )


def _read_batches(folder: Path, names: tuple[str, ...]) -> Dataset:
    images, labels = [], []
    for name in names:
        file = folder / name
        if not file.exists():
            raise FileNotFoundError(f"CIFAR-10: {file} is missing; unpack cifar-10-python.tar.gz again")
        with file.open("rb") as stream:
            batch = _ArrayUnpickler(stream, encoding="bytes").load()
        images.append(np.asarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32))
        labels.extend(batch[b"labels"])
    return make_dataset("CIFAR-10", torch.from_numpy(np.concatenate(images)), torch.tensor(labels), _CLASSES)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays and plain values only: a pickle could otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "_reconstruct" and module.startswith("numpy"):
            return np.ndarray.__reduce__(np.empty(0))[0]
        if (module, name) in (("numpy", "ndarray"), ("numpy", "dtype")):
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):
            return codecs.encode
        raise ValueError(f"a CIFAR-10 batch should hold only arrays, found {module}.{name}")
