"""Data of one's own, as a caller has them: tensors, arrays, Datasets of torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from fastat.data.dataset import Dataset
from fastat.data.mapped import Mapped, keyed_draws, sample_of, stored
from fastat.data.splits import AnyDataset, Split, channels_last
from fastat.data.streamed import Streamed
from fastat.support import call_named

Array = Tensor | np.ndarray[Any, Any]
Given = AnyDataset | TorchDataset[Any] | Sequence[Any] | tuple[Array, Array]
"""What :func:`as_dataset` takes."""

_IN_MEMORY = 1 << 30  # bytes of float32
_LOOKED_AT = 32  # samples


def as_dataset(
    given: Given,
    what: str,
    *,
    title: str | None = None,
    classes: Sequence[str] | None = None,
    in_memory: bool | None = None,
    workers: int | None = None,
) -> AnyDataset:
    """Samples and labels as training takes them.

    Args:
        given: a dataset of this library, as it is; a pair (x, y) of tensors or arrays, x ``[N, ...]`` floating-point or
            uint8 of pixels from 0 to 255, y integers ``[N]``; or a map-style Dataset of torch, or anything with a
            length and items, of pairs (x, label), where x may be a tensor, an array or a Pillow image.
        what: how messages call it, "train_set".
        title: what tables and figures call it; None for the name of the Dataset's class.
        classes: their names; by default those the Dataset has as ``classes``, else 0, 1, ... to the largest label; none
            for a Dataset without any that is read as it is needed, for :func:`with_classes` to give it some.
        in_memory: whether a Dataset is read into memory once, or sample by sample in every epoch. None: into memory, if
            it takes less than 1 GiB there and its transforms draw no random numbers.
        workers: processes that read a Dataset; None for as many as there are cores, 8 at most; 0 for none.

    Raises:
        TypeError: it is none of these.
        ValueError: it is empty, or a sample or a label is not what it should be; the message names it.
    """
    if isinstance(given, Dataset | Streamed | Mapped):
        return given
    if isinstance(given, DataLoader | IterableDataset):
        cure = "its .dataset" if isinstance(given, DataLoader) else "a map-style one, with __getitem__ and __len__"
        raise TypeError(f"{what} must have items to draw batches from, got {type(given).__name__}: pass {cure}")
    if workers is not None and workers < 0:
        raise ValueError(f"workers must be at least 0, got {workers}")
    plain = isinstance(given, tuple | list | TensorDataset)
    title = title or ("own data" if plain else type(given).__name__)
    pair = given.tensors if isinstance(given, TensorDataset) else given
    if (
        isinstance(pair, tuple | list)
        and len(pair) == 2
        and all(isinstance(part, Tensor | np.ndarray) for part in pair)
    ):
        return _of_arrays(pair[0], pair[1], what, title, classes)
    if not hasattr(given, "__getitem__") or not hasattr(given, "__len__"):
        raise TypeError(
            f"{what} must be a Dataset of torch (map-style), or a pair (x, y) of tensors or arrays, "
            f"got {type(given).__name__}"
        )
    return _of_items(given, what, title, classes, in_memory, workers)


def as_split(made: Any, what: str) -> Split:
    """A Split, or a pair (train, test) of what :func:`as_dataset` takes."""
    if isinstance(made, Split):
        return made
    if not isinstance(made, tuple | list) or len(made) != 2:
        raise ValueError(f"{what} must return a pair (train, test) of datasets, got {type(made).__name__}")
    try:
        halves = [as_dataset(half, name, title=what) for half, name in zip(made, ("train", "test"), strict=True)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error
    names = max((half.classes for half in halves), key=len)
    if not names:
        raise ValueError(
            f"{what}: a Dataset that is read as it is needed must have an attribute classes, a list of names"
        )
    train, test = (with_classes(half, names) for half in halves)
    if train.image_shape != test.image_shape:
        raise ValueError(f"{what}: train has samples of {train.image_shape}, test of {test.image_shape}")
    return Split(train, test)


def own_split(name: str) -> Split:
    """What the function "package.module:function" returns, as :func:`as_split` takes it."""
    return as_split(call_named(name), name)


def with_classes(dataset: AnyDataset, classes: Sequence[str]) -> AnyDataset:
    """The dataset with these names of its classes.

    Raises:
        ValueError: it has labels beyond them.
    """
    if isinstance(dataset, Dataset) and (most := int(dataset.labels.max())) >= len(classes):
        raise ValueError(f"{dataset.title} has the label {most}, there are classes 0..{len(classes) - 1}")
    return replace(dataset, classes=tuple(str(name) for name in classes))


def _of_arrays(x: Array, y: Array, what: str, title: str, classes: Sequence[str] | None) -> Dataset:
    x, y = torch.as_tensor(x).detach(), torch.as_tensor(y).detach()
    if x.dim() < 2 or len(x) == 0 or x.numel() == 0:
        raise ValueError(f"{what}: x must be [N, ...] with N >= 1, got {list(x.shape)}")
    if y.shape != x.shape[:1] or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"{what}: y must be integers [{len(x)}], one per sample, got {y.dtype} {list(y.shape)}")
    if channels_last(x.shape):
        raise ValueError(f"{what}: x {list(x.shape)} seems to have its channels last: pass x of [N, C, H, W]")
    try:
        x = stored(x)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from error
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError(f"{what}: x must be finite")
    y = y.long()
    names = _names(classes, int(y.max()))
    if int(y.min()) < 0 or int(y.max()) >= len(names):
        found = f"{int(y.min())}..{int(y.max())}"
        raise ValueError(f"{what}: labels must be in 0..{len(names) - 1}, got {found}")
    ids = torch.arange(len(y), device=y.device)
    return Dataset(title, x, y, names, 1 if x.is_floating_point() else 255, ids)


def _names(classes: Sequence[str] | None, most: int) -> tuple[str, ...]:
    """The names of the classes, by default their numbers up to the largest label."""
    if classes is None:
        return tuple(str(number) for number in range(most + 1))
    return tuple(str(name) for name in classes)


def _of_items(
    source: Any, what: str, title: str, classes: Sequence[str] | None, in_memory: bool | None, workers: int | None
) -> AnyDataset:
    if len(source) == 0:
        raise ValueError(f"{what} is empty")
    own = getattr(source, "classes", None)
    if classes is None and isinstance(own, list | tuple) and own:
        classes = own
    try:
        with keyed_draws(0):
            shape = sample_of(source[0], 0)[0].shape
        if channels_last((1, *shape)):
            raise ValueError(f"samples {list(shape)} seem to have their channels last: return [C, H, W]")
        names = () if classes is None else _names(classes, 0)
        mapped = Mapped(title, source, tuple(shape), names, torch.arange(len(source)), workers)
        if in_memory is None:
            in_memory = 4 * shape.numel() * len(source) <= _IN_MEMORY and _is_fixed(mapped)
        if not in_memory:
            return mapped
        loaded = mapped.load()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return _of_arrays(loaded.images, loaded.labels, what, title, classes)


def _is_fixed(source: Mapped) -> bool:
    """Whether samples come out the same whatever is drawn: none of some that are looked at differs."""
    some = torch.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).long().tolist()
    return all(source.sample(one)[0].equal(source.sample(one, epoch=1)[0]) for one in some)
