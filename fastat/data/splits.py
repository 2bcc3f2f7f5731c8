"""The halves of a dataset of any kind, and what training takes from them: statistics, a digest, images set apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fastat.data.dataset import Dataset
from fastat.data.mapped import Mapped
from fastat.data.streamed import Streamed
from fastat.support.keyed import keyed_hash

AnyDataset = Dataset | Streamed | Mapped

_HELD_OUT = 0x4E1D  # a constant: the images set apart are the same for every seed
_MEASURED, _KNOWN_BY = 2000, 32  # samples
_CONTENT = 0xD16E57  # the seed of the transforms of the latter
_COLOURS = 4  # channels that a picture has at most
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """The two halves of a dataset: train to learn from, test to evaluate on."""

    train: AnyDataset
    test: AnyDataset


def held_out(dataset: AnyDataset, size: int) -> tuple[AnyDataset, AnyDataset | None]:
    """The dataset without a random choice of ``size`` images, and these; None for size 0.

    Which images these are depends on their ids alone. Both parts are in the order of the dataset.

    Raises:
        ValueError: size < 0, or nothing would be left.
    """
    if not 0 <= size < len(dataset):
        raise ValueError(f"val_size must be at least 0 and below the {len(dataset)} training images, got {size}")
    if size == 0:
        return dataset, None
    chosen = torch.zeros(len(dataset), dtype=torch.bool)
    chosen[keyed_hash(dataset.ids.cpu(), _HELD_OUT).argsort(stable=True)[:size]] = True
    device = dataset.ids.device
    return dataset.take((~chosen).nonzero().flatten().to(device)), dataset.take(chosen.nonzero().flatten().to(device))


def channel_statistics(dataset: AnyDataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel in pixel units.

    Exact, from the counts of the stored values where these are integers; of images that stay on the disk the usual
    numbers of ImageNet; of a Dataset that is read as it is needed those of a random choice of its samples. A channel
    that never changes gets the standard deviation 1.
    """
    if isinstance(dataset, Streamed):
        return list(IMAGENET_MEAN), list(IMAGENET_STD)
    if isinstance(dataset, Mapped):
        dataset = dataset.subset(_MEASURED, 0).load()
    if dataset.images.is_floating_point():
        flat = dataset.images.double().transpose(0, 1).flatten(1)
        spread = flat.std(1, correction=0)
        return flat.mean(1).tolist(), torch.where(spread > 0, spread, 1.0).tolist()
    values = torch.arange(256, dtype=torch.float64) / dataset.scale
    means, deviations = [], []
    for channel in dataset.images.unbind(1):
        counts = torch.bincount(channel.reshape(-1), minlength=256).double().cpu() / channel.numel()
        mean = float(counts @ values)
        deviation = float(counts @ (values - mean) ** 2) ** 0.5
        means.append(mean)
        deviations.append(deviation if deviation > 0 else 1.0)
    return means, deviations


def channels_last(shape: Sequence[int]) -> bool:
    """Whether images of this shape, [N, ...], seem to be [N, H, W, C]."""
    return len(shape) == 4 and shape[3] <= _COLOURS < min(shape[1:3])


def content_digest(text: str, *tensors: torch.Tensor) -> str:
    """Twelve hexadecimal digits that stand for the text and the content, shape and type of the tensors."""
    state = hashlib.sha256(text.encode())
    for tensor in tensors:
        state.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:12]


def dataset_digest(dataset: AnyDataset) -> str:
    """That of what a network learns from; of images on the disk their names stand for them, of a Dataset that is read
    as it is needed some of its samples."""
    if isinstance(dataset, Mapped):
        some = (
            dataset.samples(range(0, len(dataset), -(-len(dataset) // _KNOWN_BY)), _CONTENT) if dataset.repeats else []
        )
        known = getattr(dataset.source, "targets", None)
        labels = torch.as_tensor([label for _, label in some] if known is None else known)
        return content_digest(repr(dataset.classes), dataset.ids, labels, *(x for x, _ in some))
    if isinstance(dataset, Streamed):
        names = [str(file) for file in dataset.files]
        return content_digest(repr((names, dataset.classes)), dataset.labels, dataset.ids)
    about = repr((dataset.scale, dataset.classes))
    return content_digest(about, dataset.images, dataset.labels, dataset.ids)
