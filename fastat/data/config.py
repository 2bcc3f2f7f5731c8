"""Which images a run learns from, and how they are changed on the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class DataConfig:
    """Which images a run learns from, and how they are changed on the way."""

    data: str = "digits"
    """digits, mnist, fashion-mnist, cifar10, cifar100, svhn, tiny-imagenet, imagenet, tensors:FILE.npz, folder:PATH
    with PATH/train/<class>/* and PATH/test/<class>/*, or a function of your own, package.module:function, that returns
    a pair (train, test) of torch Datasets or of pairs of arrays."""
    train_size: int | None = None
    """Train on a random choice of so many images; all of them if not given."""
    label_noise: float = 0.0
    """Fraction of the training labels that are replaced by another class, drawn uniformly; test labels are not."""
    val_size: int = 128
    """Training images set apart, the same for every seed, to watch the run and choose its best epoch by; 0: none."""
    augment: Literal["none", "crop", "crop-flip"] = "none"
    """crop: zero-pad by 4 pixels and cut out at random (imagenet: a random part at 224 pixels); crop-flip: also mirror
    half of the images."""
    cutout: int = 0
    """Side in pixels of a square at a random place that is blacked out; 0: none."""
