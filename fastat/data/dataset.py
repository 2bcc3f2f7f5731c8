"""A small image dataset as one tensor, kept on the device where the training runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fastat.keyed import keyed_permutation

_SUBSET = 0x5B5E7  # the purpose in the key of a random subset


@dataclass(frozen=True)
class Dataset:
    """Labelled images in memory.

    Attributes:
        title: what tables and figures call it, "CIFAR-10 (JPEG)" for example.
        images: uint8 [N, C, H, W].
        labels: int64 [N], from 0 to len(classes) - 1.
        classes: the name of each class.
        scale: the stored value that stands for the pixel value 1.0 (255, or 16 for digits).
        ids: int64 [N], each image's index in the files it came from; its random numbers are keyed by it.
    """

    title: str
    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    scale: int
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Dataset:
        """The same dataset with its tensors on the device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), ids=self.ids.to(device))

    def take(self, index: Tensor) -> Dataset:
        """The images at the positions index, int64 [M]; they keep their ids."""
        return replace(self, images=self.images[index], labels=self.labels[index], ids=self.ids[index])

    def subset(self, size: int | None, seed: int) -> Dataset:
        """A random choice of ``size`` images, in the order of the dataset; all of them for None or a size beyond N.

        Raises:
            ValueError: size < 1.
        """
        if size is not None and size < 1:
            raise ValueError(f"a subset needs at least one image, got size {size}")
        if size is None or size >= len(self):
            return self
        chosen = keyed_permutation(len(self), seed, _SUBSET)[:size].sort().values
        return self.take(chosen.to(self.labels.device))

    def pixels(self, images: Tensor | None = None) -> Tensor:
        """Stored images (all of them by default) as float32 in [0, 1]."""
        return (self.images if images is None else images).float() / self.scale


@dataclass(frozen=True)
class Split:
    """The two halves of a dataset: train to learn from, test to judge by."""

    train: Dataset
    test: Dataset


def make_dataset(title: str, images: Tensor, labels: Tensor, classes: tuple[str, ...], scale: int = 255) -> Dataset:
    """A dataset whose ids are 0..N-1.

    Raises:
        ValueError: shapes, types or labels do not fit what :class:`Dataset` says.
    """
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(f"images must be uint8 [N, C, H, W], got {images.dtype} {tuple(images.shape)}")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be int64 [{len(images)}], got {labels.dtype} {tuple(labels.shape)}")
    if len(labels) == 0:
        raise ValueError(f"{title} has no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise ValueError(f"labels must be in 0..{len(classes) - 1}, got {low}..{high}")
    return Dataset(title, images, labels, classes, scale, torch.arange(len(labels)))


def channel_statistics(dataset: Dataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in pixel units, exact: from the counts of the stored values.

    A channel that never changes gets the standard deviation 1.
    """
    values = torch.arange(256, dtype=torch.float64) / dataset.scale
    means, deviations = [], []
    for channel in dataset.images.unbind(1):
        counts = torch.bincount(channel.reshape(-1), minlength=256).double().cpu() / channel.numel()
        mean = float(counts @ values)
        deviation = float(counts @ (values - mean) ** 2) ** 0.5
        means.append(mean)
        deviations.append(deviation if deviation > 0 else 1.0)
    return means, deviations
