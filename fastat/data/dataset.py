"""A small image dataset as one tensor, kept on the device where the training runs."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fastat.data.augment import NO_AUGMENTATION, Augmentation, changed
from fastat.support.keyed import keyed_permutation

MOST_UNNAMED = 1 << 16
"""Classes that may go without names where there are fewer samples."""
_SUBSET = 0x5B5E7  # the purpose in the key of a random subset


class Batch(NamedTuple):
    """Some samples of a dataset: x, float32 [B, ...], of images pixels [B, C, H, W]; labels y and ids, int64 [B]."""

    x: Tensor
    y: Tensor
    ids: Tensor


@dataclass(frozen=True)
class Dataset:
    """Labelled images in memory, of pixels in [0, 1]; computed ones may leave it, and be samples of any shape.

    Attributes:
        title: what tables and figures call it, "CIFAR-10 (JPEG)" for example.
        images: uint8 [N, C, H, W], or float32 for images that were computed, with scale 1; [N, ...] of other samples.
        labels: int64 [N], from 0 to len(classes) - 1.
        classes: the name of each class.
        scale: the stored value of the pixel value 1.0 (255, 16 for digits, 1 for float32).
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

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images"""
        return tuple(self.images.shape[1:])

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
        chosen = chosen_positions(len(self), size, seed)
        return self if chosen is None else self.take(chosen.to(self.labels.device))

    def load(self) -> Dataset:
        """Itself: its images are in memory."""
        return self

    def batches(
        self,
        positions: Tensor,
        batch_size: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        device: torch.device | None = None,
    ) -> Generator[Batch]:
        """The images at these positions, ``batch_size`` at a time, on the dataset's own device.

        Args:
            positions: int64 [M].
            batch_size: the last batch may be smaller.
            augmentation: how they are changed.
            device: the dataset's.
        """
        for index in positions.to(self.labels.device).split(batch_size):
            if len(index) == 0:  # split makes one empty part of no positions
                return
            some = self.take(index)
            yield Batch(self.pixels(changed(some.images, some.ids, augmentation)), some.labels, some.ids)

    def pixels(self, images: Tensor | None = None) -> Tensor:
        """Stored images (all of them by default) as float32, 1.0 for ``scale``."""
        return (self.images if images is None else images).float() / self.scale


def chosen_positions(n: int, size: int | None, seed: int) -> Tensor | None:
    """A random choice of ``size`` of 0..n-1, sorted, int64; None for all of them, for None or a size beyond n.

    Raises:
        ValueError: size < 1.
    """
    if size is not None and size < 1:
        raise ValueError(f"a subset needs at least one image, got size {size}")
    if size is None or size >= n:
        return None
    return keyed_permutation(n, seed, _SUBSET)[:size].sort().values


def numbered_classes(labels: Tensor, what: str) -> tuple[str, ...]:
    """The names of classes that nobody named: the numbers from 0 to the largest label.

    Warns where the labels seem to count from 1, all of 1, ..., K >= 2 being there and none 0: class 0 is then a class
    without samples, for which a network learns a logit of no use.

    Args:
        labels: integers [N], N >= 1.
        what: the labels are of, for messages.

    Raises:
        ValueError: the largest label is neither below N nor below 65,536, and names would fill the memory.
    """
    low, high = int(labels.min()), int(labels.max())
    if high >= max(len(labels), MOST_UNNAMED):
        raise ValueError(
            f"{what} has the label {high} among {len(labels)} samples: labels must count classes, 0, 1, ...; below "
            f"{MOST_UNNAMED}, or the number of samples, unless classes names them all"
        )
    if low == 1 and 2 <= high <= len(labels) // 2 and len(labels.unique()) == high:
        warnings.warn(
            f"{what} has labels from 1 to {high} and none 0, so that class 0 is empty: subtract 1 from them, or name "
            f"the {high + 1} classes if class 0 is meant (classes)",
            stacklevel=4,
        )
    return tuple(str(number) for number in range(high + 1))


def make_dataset(title: str, images: Tensor, labels: Tensor, classes: tuple[str, ...], scale: int = 255) -> Dataset:
    """A dataset whose ids are 0..N-1.

    Raises:
        ValueError: shapes, types or labels do not fit what :class:`Dataset` says.
    """
    if images.dtype not in (torch.uint8, torch.float32) or images.dim() != 4:
        raise ValueError(f"images must be uint8 or float32 [N, C, H, W], got {images.dtype} {tuple(images.shape)}")
    if images.is_floating_point() and not bool(images.isfinite().all()):
        raise ValueError("images must be finite")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be int64 [{len(images)}], got {labels.dtype} {tuple(labels.shape)}")
    if len(labels) == 0:
        raise ValueError(f"{title} has no images")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise ValueError(f"labels must be in 0..{len(classes) - 1}, got {low}..{high}")
    return Dataset(title, images, labels, classes, scale, torch.arange(len(labels)))
