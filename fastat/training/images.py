"""The images of a run: what it learns from, in which order, and what it is watched on."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby

import torch

from fastat.data import (
    AnyDataset,
    Augmentation,
    Batch,
    DataConfig,
    Dataset,
    Mapped,
    Split,
    Streamed,
    flip_labels,
    held_out,
)
from fastat.support.distributed import Group, rank_of, size_of
from fastat.support.keyed import keyed_permutation
from fastat.training.config import ConfigError
from fastat.training.monitors import PROBE_IMAGES

_MOST_WATCHED = 10_000
_LOOKED_AT = 64  # samples
_ORDER = 0x0D3  # the purpose in the key of the order of the images


@dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
        train_set: what it learns from.
        val_set: images to watch it by, on the device, 10,000 of them at most; None without any.
        probe_set: images on which the monitors look for a collapse, on the device.
        batch_size: images per step, of all processes: all of a training set that is smaller than a batch.
        part: the part of every batch that is this process's.
    """

    train_set: AnyDataset
    val_set: Dataset | None
    probe_set: Dataset
    batch_size: int
    part: slice

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training set. What is left over is another part of it in every epoch."""
        return len(self.train_set) // self.batch_size


def training_sets(settings: DataConfig, seed: int, split: Split) -> tuple[AnyDataset, AnyDataset | None]:
    """What a run trains on, a choice of the training images with a share of wrong labels; and what it is watched on.

    Raises:
        ConfigError: val_size leaves nothing to train on.
    """
    try:
        rest, val_set = held_out(split.train, settings.val_size)
    except ValueError as error:
        raise ConfigError("val_size", str(error)) from error
    try:
        return flip_labels(rest.subset(settings.train_size, seed), settings.label_noise, seed), val_set
    except ValueError as error:
        raise ConfigError("label_noise", str(error)) from error


def check_box(split: Split) -> None:
    """Raises :class:`ConfigError` if images leave the box [0, 1] of the attacks."""
    for half, images in (("training", split.train), ("test", split.test)):
        low, high = extent(images)
        if low < 0 or high > 1:
            rule = "off (--no-box) for images that leave [0, 1], or these be scaled to it (and not be normalized)"
            found = f"True with {half} images from {low:.4g} to {high:.4g}"
            raise ConfigError("box", f"box must be {rule}, got {found}")


def are_bytes(dataset: AnyDataset) -> bool:
    """Whether pixels are stored as bytes, which are numbers from 0 to 1 when they are used."""
    if isinstance(dataset, Mapped):
        return not dataset.samples([0])[0][0].is_floating_point()
    return isinstance(dataset, Streamed) or not dataset.images.is_floating_point()


def extent(dataset: AnyDataset) -> tuple[float, float]:
    """The smallest and the largest value, of what is read as it is needed that of some samples; (0, 1) for bytes."""
    if isinstance(dataset, Streamed) or are_bytes(dataset):
        return 0.0, 1.0
    images = dataset.images if isinstance(dataset, Dataset) else dataset.subset(_LOOKED_AT, 0).load().images
    low, high = images.aminmax()
    return float(low), float(high)


def images_of(
    train_set: AnyDataset, val_set: AnyDataset | None, batch_size: int, device: torch.device, group: Group | None
) -> Images:
    """The images of a run on its device; ``batch_size``, of all processes, is at most that of the training set."""
    own = batch_size // size_of(group)
    return Images(
        train_set.to(device),
        None if val_set is None else val_set.subset(_MOST_WATCHED, 0).load().to(device),
        (train_set if val_set is None else val_set).subset(PROBE_IMAGES, 0).load().to(device),
        batch_size,
        slice(rank_of(group) * own, (rank_of(group) + 1) * own),
    )


def batches(
    images: Images, augmentation: Augmentation, steps: range, *, seed: int, replays: int, device: torch.device
) -> Generator[Batch]:
    """This process's part of the batches of these steps, which are counted over the whole run.

    A batch that is replayed comes several times in a row, and a pass over the images takes as many epochs then.
    """
    per_pass = images.steps_per_epoch
    for number, group in groupby(steps, key=lambda step: step // replays // per_pass):
        in_pass = list(group)
        first = in_pass[0] // replays - number * per_pass
        order = keyed_permutation(len(images.train_set), seed, number, _ORDER)
        rows = order[: per_pass * images.batch_size].view(per_pass, images.batch_size)[:, images.part]
        times = [len(list(same)) for _, same in groupby(in_pass, key=lambda step: step // replays)]
        chosen, changes = rows[first : first + len(times)].flatten(), replace(augmentation, epoch=number)
        with closing(images.train_set.batches(chosen, rows.shape[1], changes, device=device)) as found:
            for count, batch in zip(times, found, strict=True):
                yield from [batch] * count
