"""A large image dataset, decoded from its files by worker processes as it is needed."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from fastat.data.augment import NO_AUGMENTATION, Augmentation, check_augment, cut_out
from fastat.data.dataset import Batch, Dataset, chosen_positions
from fastat.data.image_files import cores, read_image
from fastat.data.workers import read_batches
from fastat.support.keyed import keyed_hash

SIDE = 224
_SHORT_SIDE = 256
_PLACE = 0x9A7C  # the purpose in the key
_TRIES = 10
_AREAS, _RATIOS = (0.08, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Streamed:
    """Labelled image files, read as RGB of 224x224 pixels. Like :class:`fastat.data.Dataset` apart from ``images``.

    Attributes:
        title: what tables and figures call it.
        files: N of them.
        labels: int64 [N], on the CPU.
        classes: the name of each class.
        ids: int64 [N], on the CPU; an image's random numbers are keyed by its id.
    """

    title: str
    files: tuple[Path, ...]
    labels: Tensor
    classes: tuple[str, ...]
    ids: Tensor

    @staticmethod
    def of(title: str, files: Sequence[Path], labels: Sequence[int], classes: tuple[str, ...]) -> Streamed:
        """A dataset whose ids are 0..N-1."""
        return Streamed(title, tuple(files), torch.tensor(labels), classes, torch.arange(len(files)))

    def __len__(self) -> int:
        return len(self.files)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W)"""
        return 3, SIDE, SIDE

    def to(self, device: torch.device | str) -> Streamed:
        """The same dataset: its batches are made on the device that they are asked for."""
        return self

    def take(self, index: Tensor) -> Streamed:
        """The images at the positions index, int64 [M]; they keep their ids."""
        index = index.cpu()
        files = tuple(self.files[position] for position in index.tolist())
        return replace(self, files=files, labels=self.labels[index], ids=self.ids[index])

    def subset(self, size: int | None, seed: int) -> Streamed:
        """See :meth:`fastat.data.Dataset.subset`."""
        chosen = chosen_positions(len(self), size, seed)
        return self if chosen is None else self.take(chosen)

    def load(self) -> Dataset:
        """All images in memory: the shorter side resized to 256 pixels, the middle 224x224 cut out."""
        found = list(self._decoded(torch.arange(len(self)), 64, NO_AUGMENTATION))
        images, labels, ids = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Dataset(self.title, images, labels, self.classes, 255, ids)

    def batches(
        self,
        positions: Tensor,
        batch_size: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        device: torch.device | None = None,
    ) -> Generator[Batch]:
        """See :meth:`fastat.data.Dataset.batches`.

        "none" resizes the shorter side to 256 pixels and cuts out the middle; "crop" cuts out a random part
        of 8% to all of the area with sides of 3:4 to 4:3 and resizes it, as is usual on ImageNet (Szegedy et al. 2015);
        "crop-flip" also mirrors half of the images. Worker processes decode, as many as there are cores, 8 at most.
        """
        device = torch.device("cpu") if device is None else device
        with closing(self._decoded(positions.cpu(), batch_size, augmentation, device)) as found:
            for images, labels, ids in found:
                on_device, keys = images.to(device, non_blocking=True), ids.to(device)
                images = cut_out(on_device, keys, augmentation.cutout, augmentation.seed, augmentation.epoch)
                yield Batch(images.float() / 255, labels.to(device, non_blocking=True), keys)

    def _decoded(
        self, positions: Tensor, batch_size: int, augmentation: Augmentation, device: torch.device | None = None
    ) -> Generator[tuple[Tensor, Tensor, Tensor]]:
        check_augment(augmentation.kind)
        samples = _Files(self.take(positions), augmentation)
        return read_batches(samples, batch_size, min(cores(), 8), device)


class _Files(TorchDataset[Any]):
    """What a worker process makes of a file: image uint8 [3, 224, 224], label, id; or the error that says why not."""

    def __init__(self, source: Streamed, augmentation: Augmentation) -> None:
        self._source, self._augment = source, augmentation.kind
        self._key = augmentation.seed, augmentation.epoch, _PLACE

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor, Tensor] | Exception:
        source = self._source
        try:
            image = read_image(source.files[position], "RGB")
        except (OSError, ValueError) as error:
            return error
        return self._changed(image, source.ids[position]), source.labels[position], source.ids[position]

    def _changed(self, image: Tensor, number: Tensor) -> Tensor:
        from torchvision.transforms import functional as transforms  # slow to import

        if self._augment == "none":
            return transforms.center_crop(transforms.resize(image, [_SHORT_SIDE], antialias=True), [SIDE, SIDE])
        draws = _uniform(number, 4 * _TRIES + 1, self._key)
        box = _random_part(image.shape[1], image.shape[2], draws)
        part = transforms.resized_crop(image, *box, [SIDE, SIDE], antialias=True)
        return transforms.hflip(part) if self._augment == "crop-flip" and draws[-1] < 0.5 else part


def _uniform(number: Tensor, count: int, key: tuple[int, ...]) -> list[float]:
    """Numbers in [0, 1) that depend on the sample's id and the key alone."""
    return [(int(keyed_hash(number, *key, draw)) >> 10) / 2**53 for draw in range(count)]


def _random_part(height: int, width: int, draws: Sequence[float]) -> tuple[int, int, int, int]:
    """(top, left, height, width): the first of ten random parts that fits into the image, else the largest middle."""
    low, high = _RATIOS
    for i in range(0, 4 * _TRIES, 4):
        area = height * width * (_AREAS[0] + (_AREAS[1] - _AREAS[0]) * draws[i])
        ratio = low * (high / low) ** draws[i + 1]
        wide, tall = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < wide <= width and 0 < tall <= height:
            return int(draws[i + 2] * (height - tall + 1)), int(draws[i + 3] * (width - wide + 1)), tall, wide
    wide, tall = min(width, round(height * high)), min(height, round(width / low))
    return (height - tall) // 2, (width - wide) // 2, tall, wide
