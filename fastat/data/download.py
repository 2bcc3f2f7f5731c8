"""Fetching datasets into the folders where the loaders look for them, with torchvision's downloaders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torchvision import datasets
from torchvision.datasets.utils import download_and_extract_archive

_TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"


def _svhn(root: Path) -> None:
    for split in ("train", "test"):
        datasets.SVHN(root, split=split, download=True)


def _tiny_imagenet(root: Path) -> None:
    download_and_extract_archive(_TINY_IMAGENET, str(root))


SOURCES: dict[str, Callable[[Path], object]] = {
    "mnist": lambda root: datasets.MNIST(root, download=True),
    "fashion-mnist": lambda root: datasets.FashionMNIST(root, download=True),
    "cifar10": lambda root: datasets.CIFAR10(root, download=True),
    "cifar100": lambda root: datasets.CIFAR100(root, download=True),
    "svhn": _svhn,
    "tiny-imagenet": _tiny_imagenet,
}
"""What to do to have each dataset in a folder."""


def fetch(name: str, root: Path) -> None:
    """Downloads and unpacks a dataset of SOURCES into the folder.

    Raises:
        FileNotFoundError: it cannot be fetched now; the message says why.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        SOURCES[name](root)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(f"downloading {name} failed: {error}") from error
