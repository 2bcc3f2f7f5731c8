"""A map-style Dataset of torch, read sample by sample as it is needed."""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import get_worker_info

from fastat.data.augment import NO_AUGMENTATION, Augmentation, changed
from fastat.data.dataset import Batch, Dataset, chosen_positions
from fastat.data.image_files import cores
from fastat.data.workers import read_batches
from fastat.support.keyed import keyed_hash

_DRAWS = 0xD4A35  # the purpose in the key
_SLACK = 1e-6  # of the bounds, for rounding
_MOST_LABEL = (1 << 63) - 1
_FEW = 256
"""For so few samples no worker is started."""


class SampleError(ValueError):
    """A sample is not what it should be; the message names it."""


@dataclass(frozen=True)
class Mapped:
    """Samples of a map-style Dataset. Like :class:`fastat.data.Dataset` apart from ``images`` and ``labels``.

    What a sample's transforms draw from torch's, numpy's and Python's global generators depends on the seed of the run,
    the epoch and the sample's id alone: not on the workers, and not on where a run was interrupted.

    Attributes:
        title: what tables and figures call it.
        source: the Dataset, of pairs (x, label).
        shape: of a sample.
        classes: the name of each class; empty while they are not known.
        ids: int64 [N], on the CPU: the positions in ``source``.
        workers: processes that read it; 0 for none, None for as many as there are cores, 8 at most.
        draws: whether its transforms draw random numbers.
        bounds: of valid values; a sample with others, or none, is refused.
        repeats: whether a sample comes out the same where the same numbers are drawn: it does not where a transform has
            a generator of its own.
    """

    title: str
    source: TorchDataset[Any] | Sequence[Any]
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    ids: Tensor
    workers: int | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    draws: bool = False
    repeats: bool = True

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of a sample."""
        return self.shape

    def to(self, device: torch.device | str) -> Mapped:
        """The same dataset: its batches are made on the device that they are asked for."""
        return self

    def take(self, index: Tensor) -> Mapped:
        """The samples at the positions index, int64 [M]; they keep their ids."""
        return replace(self, ids=self.ids[index.cpu()])

    def subset(self, size: int | None, seed: int) -> Mapped:
        """See :meth:`fastat.data.Dataset.subset`."""
        chosen = chosen_positions(len(self), size, seed)
        return self if chosen is None else self.take(chosen)

    def load(self) -> Dataset:
        """All samples in memory, with the draws of seed 0 and epoch 0 where their transforms are random.

        Raises:
            SampleError: a sample is not what it should be.
        """
        found = list(self._read(torch.arange(len(self)), 256, NO_AUGMENTATION))
        images, labels, ids = (torch.cat(parts) for parts in zip(*found, strict=True))
        return Dataset(self.title, images, labels, self.classes, 1 if images.is_floating_point() else 255, ids)

    def batches(
        self,
        positions: Tensor,
        batch_size: int,
        augmentation: Augmentation = NO_AUGMENTATION,
        *,
        device: torch.device | None = None,
    ) -> Generator[Batch]:
        """See :meth:`fastat.data.Dataset.batches`; the augmentation comes after the transforms of the Dataset."""
        device = torch.device("cpu") if device is None else device
        with closing(self._read(positions.cpu(), batch_size, augmentation, device)) as found:
            for stored, labels, ids in found:
                keys = ids.to(device)
                images = changed(stored.to(device, non_blocking=True), keys, augmentation)
                pixels = images if images.is_floating_point() else images.float() / 255
                yield Batch(pixels, labels.to(device, non_blocking=True), keys)

    def samples(self, positions: Sequence[int], seed: int = 0, epoch: int = 0) -> list[tuple[Tensor, int]]:
        """Samples, each float32 or uint8 of pixels from 0 to 255, and their labels.

        Raises:
            SampleError: one is not what it should be.
        """
        numbers = self.ids[list(positions)]
        found = []
        with generators_kept():
            for number, key in zip(numbers.tolist(), keyed_hash(numbers, seed, epoch, _DRAWS).tolist(), strict=True):
                seed_generators(key)
                found.append(self._checked(self.source[number], number))
        return found

    def _checked(self, item: Any, number: int) -> tuple[Tensor, int]:
        x, label = sample_of(item, number)
        if tuple(x.shape) != self.shape:
            raise SampleError(
                f"sample {number} has the shape {list(x.shape)}, sample {int(self.ids[0])} {list(self.shape)}: "
                "resize or crop them to one shape in the Dataset's transform"
            )
        if x.is_floating_point():
            low, high = (float(end) for end in x.aminmax())
            if not self.bounds[0] - _SLACK <= low <= high <= self.bounds[1] + _SLACK or math.isinf(high - low):
                raise SampleError(f"sample {number} has values from {low:.4g} to {high:.4g}, valid are {self.bounds}")
        if label < 0 or (self.classes and label >= len(self.classes)):
            raise SampleError(f"sample {number} has the label {label}, classes are 0..{len(self.classes) - 1}")
        return x, label

    def _read(
        self, positions: Tensor, batch_size: int, augmentation: Augmentation, device: torch.device | None = None
    ) -> Generator[tuple[Tensor, Tensor, Tensor]]:
        workers = min(cores(), 8) if self.workers is None else self.workers
        samples = _Samples(self.take(positions), augmentation)
        return read_batches(samples, batch_size, 0 if len(positions) <= _FEW else workers, device)


class _Samples(TorchDataset[Any]):
    """What a worker process makes of positions: of each sample, label, id; or the error that says why not."""

    def __init__(self, source: Mapped, augmentation: Augmentation) -> None:
        self._source, self._key = source, (augmentation.seed, augmentation.epoch)

    def __len__(self) -> int:
        return len(self._source)

    def __getitems__(self, positions: list[int]) -> list[tuple[Tensor, int, Tensor]] | list[SampleError]:
        try:
            found = self._source.samples(positions, *self._key)
        except SampleError as error:
            return [error]
        return [(*sample, self._source.ids[place]) for sample, place in zip(found, positions, strict=True)]


def sample_of(item: Any, number: int) -> tuple[Tensor, int]:
    """What a Dataset's item is: float32, or uint8 of pixels from 0 to 255; and the label.

    Raises:
        SampleError: it is no such pair.
    """
    if not isinstance(item, tuple | list) or len(item) != 2:
        what = f"a {type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
        cure = ": wrap the Dataset in one whose __getitem__ returns item['image'], item['label']" * isinstance(
            item, dict
        )
        raise SampleError(f"sample {number} must be a pair (x, label), got {what}{cure}")
    x, label = item
    if isinstance(x, Image.Image):
        from torchvision.transforms.functional import pil_to_tensor  # slow to import

        x = pil_to_tensor(x)
    try:
        x = stored(torch.as_tensor(x))
    except (TypeError, ValueError, RuntimeError) as error:
        raise SampleError(f"sample {number} must hold a tensor, an array or an image: {error}") from error
    whole = isinstance(label, int | np.integer) and not isinstance(label, bool)
    if isinstance(label, Tensor | np.ndarray):
        whole = label.ndim == 0 and not torch.as_tensor(label).is_floating_point()
    if not whole:
        text = f"{list(label.shape)} of {label.dtype}" if isinstance(label, Tensor | np.ndarray) else repr(label)
        raise SampleError(f"sample {number} must have an integer label, got {text}: int(label), or its argmax")
    if not -_MOST_LABEL <= int(label) <= _MOST_LABEL:
        raise SampleError(f"sample {number} has the label {int(label)!r:.40}, which is no class")
    return x, int(label)


def stored(x: Tensor) -> Tensor:
    """Values as a dataset keeps them: uint8 as they are, floating-point ones as float32.

    Raises:
        TypeError: other values.
    """
    if x.dtype == torch.uint8:
        return x
    if not x.is_floating_point():
        raise TypeError(f"values must be floating-point, or uint8 of pixels from 0 to 255, got {x.dtype}")
    return x.float()


@contextmanager
def generators_kept() -> Iterator[None]:
    """Puts the global generators of the main process back where they were; a worker's are its own."""
    if get_worker_info() is not None:
        yield
        return
    before = generators()
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        random.setstate(before[1])
        np.random.set_state(before[2])


def seed_generators(key: int) -> None:
    """The global generators at a state that the key decides."""
    torch.default_generator.manual_seed(key)
    random.seed(key)
    np.random.seed(key % 2**32)


def generators() -> tuple[Tensor, Any, Any]:
    """The states of the global generators."""
    return torch.get_rng_state(), random.getstate(), np.random.get_state()
