"""MNIST and Fashion-MNIST from their four IDX files, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import torch
from torch import Tensor

from fastat.data.dataset import Dataset, make_dataset
from fastat.data.splits import Split
from fastat.support.files.arrays import most_unpacked

_UINT8 = 0x08  # the IDX type code of unsigned bytes
_CLOTHES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def load_mnist(root: Path) -> Split:
    """The 60,000 + 10,000 images of 28x28 from ``root/MNIST/raw``.

    Raises:
        FileNotFoundError: a file is missing; the message says what to put where.
        ValueError: a file is not in the IDX format, or images and labels are not equally many.
    """
    return _split("MNIST", root / "MNIST" / "raw", tuple(str(digit) for digit in range(10)))


def load_fashion_mnist(root: Path) -> Split:
    """Zalando's images of clothes in MNIST's format (Xiao, Rasul, Vollgraf 2017), from ``root/FashionMNIST/raw``.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load_mnist`.
    """
    return _split("Fashion-MNIST", root / "FashionMNIST" / "raw", _CLOTHES)


def _split(title: str, folder: Path, classes: tuple[str, ...]) -> Split:
    return Split(*(_half(title, folder, prefix, classes) for prefix in ("train", "t10k")))


def _half(title: str, folder: Path, prefix: str, classes: tuple[str, ...]) -> Dataset:
    images, labels = (_find(title, folder, f"{prefix}-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
    pixels, numbers = _read_idx(images, 3).unsqueeze(1), _read_idx(labels, 1).to(torch.int64)
    try:
        return make_dataset(title, pixels, numbers, classes)
    except ValueError as error:
        raise ValueError(f"{images} and {labels.name}: {error}") from error


def _find(title: str, folder: Path, name: str) -> Path:
    for file in (folder / name, folder / f"{name}.gz"):
        if file.exists():
            return file
    raise FileNotFoundError(f"{title}: {folder / name} (or {name}.gz) is missing; put the four files of {title} there")


def _read_idx(file: Path, dimensions: int) -> Tensor:
    """The uint8 tensor in an IDX file: two zero bytes, the type, the rank, big-endian sizes, the values."""
    content = _unpacked(file) if file.suffix == ".gz" else file.read_bytes()
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, _UINT8, dimensions)):
        raise ValueError(f"{file} is not an IDX file of bytes with {dimensions} dimensions")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, header, 4)]
    if len(content) != header + math.prod(shape):
        raise ValueError(f"{file} should hold {math.prod(shape)} values, has {len(content) - header}")
    if 0 in shape:
        raise ValueError(f"{file} holds nothing: its sizes are {shape}")
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).view(shape)


def _unpacked(file: Path) -> bytes:
    most = most_unpacked(file)
    try:
        with gzip.open(file) as stream:
            content = stream.read(most + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file} is not a whole gzip file: {error}") from error
    if len(content) > most:
        raise ValueError(f"{file} unpacks to more than {most >> 20} MiB, which no file of these datasets does")
    return content
