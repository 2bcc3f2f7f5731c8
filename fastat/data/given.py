"""Data of one's own, as a caller has them: tensors, arrays, Datasets of torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from fastat.data.dataset import Dataset, numbered_classes
from fastat.data.mapped import Mapped, generators, generators_kept, sample_of, seed_generators, stored
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
        classes: their names; by default those the Dataset has as ``classes``, else 0, 1, ... to the largest label,
            which must then be below the number of samples or below 65,536 (labels that count from 1 are warned of);
            none for a Dataset without any that is read as it is needed, for :func:`with_classes` to give it some.
        in_memory: whether a Dataset is read into memory once, or sample by sample in every epoch. None: into memory, if
            it takes less than 1 GiB there and its transforms draw no random numbers.
        workers: processes that read a Dataset; None for as many as there are cores, 8 at most; 0 for none.

    Raises:
        TypeError: it is none of these.
        ValueError: it is empty, or a sample or a label is not what it should be; the message names it.
    """
    if isinstance(given, Dataset | Streamed | Mapped):
        return given if classes is None else with_classes(given, classes)
    if isinstance(given, DataLoader | IterableDataset):
        cure = "its .dataset" if isinstance(given, DataLoader) else "a map-style one, with __getitem__ and __len__"
        raise TypeError(f"{what} must have items to draw batches from, got {type(given).__name__}: pass {cure}")
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 0):
        raise ValueError(f"workers must be a number of processes, at least 0, got {workers!r}")
    if in_memory is not None and not isinstance(in_memory, bool):
        raise ValueError(f"in_memory must be True, False or None, got {in_memory!r}")
    if isinstance(classes, str) or not isinstance(classes, Iterable | None):
        raise TypeError(f"classes must be a list of names, got {classes!r}")
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
    if isinstance(given, tuple | list) and len(given) == 2:
        if all(isinstance(part, TorchDataset) for part in given):
            raise TypeError(f"{what} must be one Dataset, got two: pass the second one as test")
        if all(isinstance(part, list) and len(part) > 2 for part in given):
            raise TypeError(f"{what} must be a pair of tensors or arrays, got lists: numpy.asarray(x), and of y")
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
    check_same_classes(halves[0], halves[1], f"{what}: test")
    names = max((half.classes for half in halves), key=len)
    if not names:
        raise ValueError(
            f"{what}: a Dataset that is read as it is needed must have an attribute classes, a list of names"
        )
    train, test = (with_classes(half, names) for half in halves)
    if train.image_shape != test.image_shape:
        raise ValueError(f"{what}: train has samples of {train.image_shape}, test of {test.image_shape}")
    return Split(train, test)


def check_same_classes(one: AnyDataset, other: AnyDataset, what: str) -> None:
    """Raises ValueError where both have names for their classes, other ones: a label would then mean two things."""
    named = [half.classes for half in (one, other) if half.classes != tuple(map(str, range(len(half.classes))))]
    if len(named) == 2 and named[0] != named[1]:
        raise ValueError(
            f"{what} has the classes {list(named[1])}, the training samples {list(named[0])}: bring them in line"
        )


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
    try:
        x, y = (torch.as_tensor(_native(part)).detach() for part in (x, y))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: x and y must be arrays of numbers: {error}") from error
    if x.dim() < 2 or len(x) == 0 or x.numel() == 0:
        raise ValueError(f"{what}: x must be [N, ...] with N >= 1, got {list(x.shape)}")
    if y.shape != x.shape[:1] or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        cure = ": y.flatten()" if y.numel() == len(x) and y.dim() > 1 else ""
        cure = ": y.argmax(1)" if y.dim() == 2 and y.shape[0] == len(x) and y.shape[1] > 1 else cure
        found = f"{y.dtype} {list(y.shape)}{cure}"
        raise ValueError(f"{what}: y must be integers [{len(x)}], one per sample, got {found}")
    if channels_last(x.shape):
        raise ValueError(f"{what}: x {list(x.shape)} seems to have its channels last: pass x of [N, C, H, W]")
    try:
        x = stored(x)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from error
    if x.is_floating_point() and not bool(x.isfinite().all()):
        raise ValueError(f"{what}: x must be finite")
    y = y.long()
    names = numbered_classes(y, what) if classes is None else tuple(str(name) for name in classes)
    if int(y.min()) < 0 or int(y.max()) >= len(names):
        found = f"{int(y.min())}..{int(y.max())}"
        raise ValueError(f"{what}: labels must be in 0..{len(names) - 1}, got {found}")
    ids = torch.arange(len(y), device=y.device)
    return Dataset(title, x, y, names, 1 if x.is_floating_point() else 255, ids)


def _native(part: Array) -> Array:
    """An array as torch can take it: with its bytes and its strides in the usual order."""
    if isinstance(part, Tensor):
        return part
    return np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("="))


def _of_items(
    source: Any, what: str, title: str, classes: Sequence[str] | None, in_memory: bool | None, workers: int | None
) -> AnyDataset:
    if len(source) == 0:
        raise ValueError(f"{what} is empty")
    own = getattr(source, "classes", None)
    if classes is None and isinstance(own, list | tuple) and own:
        classes = own
    try:
        with generators_kept():
            shape = sample_of(source[0], 0)[0].shape
        if channels_last((1, *shape)):
            raise ValueError(f"samples {list(shape)} seem to have their channels last: return [C, H, W]")
        names = () if classes is None else tuple(str(name) for name in classes)
        mapped = _looked_at(Mapped(title, source, tuple(shape), names, torch.arange(len(source)), workers))
        if in_memory is None:
            in_memory = 4 * shape.numel() * len(source) <= _IN_MEMORY and mapped.repeats and not mapped.draws
        if not in_memory:
            if not mapped.repeats:
                warnings.warn(
                    f"{what} has transforms with a generator of their own, so this run cannot be repeated, nor go on "
                    "as if it had not been interrupted: draw from torch's, numpy's or Python's global one",
                    stacklevel=4,
                )
            return mapped
        loaded = mapped.load()
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from error
    return _of_arrays(loaded.images, loaded.labels, what, title, classes)


def _looked_at(source: Mapped) -> Mapped:
    """The dataset with what some of its samples tell: whether their transforms draw, and come out the same again."""
    some = torch.linspace(0, len(source) - 1, min(_LOOKED_AT, len(source))).long().tolist()
    draws, repeats = False, True
    for position in some:
        found = []
        with generators_kept():
            for _ in range(2):
                seed_generators(position)
                before = generators()
                found.append(sample_of(source.source[position], position))
                draws = draws or not _same(before, generators())
        (x, label), (again, label_again) = found
        repeats = repeats and label == label_again and torch.equal(x, again)
    return replace(source, draws=draws, repeats=repeats)


def _same(one: tuple[Tensor, Any, Any], other: tuple[Tensor, Any, Any]) -> bool:
    """Whether these are the same states of the generators."""
    numpy = all(np.array_equal(a, b) for a, b in zip(one[2], other[2], strict=True))
    return one[0].equal(other[0]) and one[1] == other[1] and numpy
