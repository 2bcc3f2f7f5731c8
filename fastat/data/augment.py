"""Random crops, flips and cutouts of a whole batch in one pass, on the device where the images are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fastat.support.keyed import keyed_hash

AUGMENTATIONS = ("none", "crop", "crop-flip")

_PADDING = 4
_AUGMENT, _CUTOUT = 0xA06, 0xC07  # purposes in the keys


@dataclass(frozen=True)
class Augmentation:
    """How images are changed; what happens to an image depends on the seed, the epoch and its id alone.

    Attributes:
        kind: "none", "crop" or "crop-flip", see :func:`augment`.
        cutout: side in pixels of the square that :func:`cut_out` blacks out; 0 for none.
        seed: the run's seed.
        epoch: the epoch, from 0.
    """

    kind: str = "none"
    cutout: int = 0
    seed: int = 0
    epoch: int = 0


NO_AUGMENTATION = Augmentation()


def check_augment(kind: str) -> None:
    """Raises ValueError for a kind that is not in AUGMENTATIONS."""
    if kind not in AUGMENTATIONS:
        raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {kind!r}")


def changed(images: Tensor, ids: Tensor, how: Augmentation) -> Tensor:
    """The images cropped, mirrored and cut out as :class:`Augmentation` says; see :func:`augment`, :func:`cut_out`."""
    return cut_out(augment(images, ids, how.kind, how.seed, how.epoch), ids, how.cutout, how.seed, how.epoch)


def augment(images: Tensor, ids: Tensor, kind: str, seed: int, epoch: int) -> Tensor:
    """Zero-pads by 4 pixels, cuts out the old size at a random place, mirrors half of the images left to right.

    What happens to an image depends on (seed, epoch, its id) alone: not on the batch it is in.

    Args:
        images: [B, C, H, W], any dtype.
        ids: int64 [B], the images' indices in their dataset, on the device of images.
        kind: "none", "crop" or "crop-flip".
        seed: the run's seed.
        epoch: the epoch, from 0.

    Returns:
        A tensor like images; images itself for "none".

    Raises:
        ValueError: an unknown kind.
    """
    check_augment(kind)
    if kind == "none":
        return images
    bits = keyed_hash(ids, seed, epoch, _AUGMENT)
    places = 2 * _PADDING + 1
    top, left, mirror = bits % places, (bits // places) % places, (bits // places**2) % 2

    batch, channels, height, width = images.shape
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    if kind == "crop-flip":
        columns = torch.where(mirror[:, None] == 1, width - 1 - columns, columns)
    columns = left[:, None] + columns
    padded = F.pad(images, (_PADDING,) * 4)
    sample = torch.arange(batch, device=images.device)
    channel = torch.arange(channels, device=images.device)
    return padded[
        sample[:, None, None, None],
        channel[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def cut_out(images: Tensor, ids: Tensor, side: int, seed: int, epoch: int) -> Tensor:
    """Blacks out a square around a random pixel, which may stick out of the image (DeVries and Taylor 2017).

    Where it is depends on (seed, epoch, an image's id) alone.

    Args:
        images: [B, C, H, W], any dtype.
        ids: int64 [B], on the device of images.
        side: of the square, in pixels; 0 for none.
        seed: the run's seed.
        epoch: the epoch, from 0.

    Returns:
        A tensor like images; images itself for side 0.

    Raises:
        ValueError: side < 0.
    """
    if side < 0:
        raise ValueError(f"cutout must be at least 0, got {side}")
    if side == 0:
        return images
    height, width = images.shape[2:]
    bits = keyed_hash(ids, seed, epoch, _CUTOUT)
    top = (bits % height - side // 2)[:, None, None, None]
    left = ((bits // height) % width - side // 2)[:, None, None, None]
    row = torch.arange(height, device=images.device)[:, None]
    column = torch.arange(width, device=images.device)
    inside = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    return images.masked_fill(inside, 0)
