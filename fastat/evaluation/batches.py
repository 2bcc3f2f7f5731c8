"""The batches of whatever data a user has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from fastat.data import AnyDataset, Batch, Dataset, Mapped, Split, Streamed, as_dataset
from fastat.kernels.arguments import check_dense, integer_labels

Array = Tensor | np.ndarray[Any, Any]

_TAKEN = (
    "a DataLoader or another iterable of batches (x, y), a Dataset of pairs (x, label), or a pair (x, y) of tensors or "
    "arrays"
)


def batches_of(
    data: Any, batch_size: int, device: torch.device | None, sample_ids: Tensor | None, bytes_allowed: bool
) -> tuple[Iterator[Batch], int | None]:
    """Samples, labels and ids, on the device (None: where they are), and how many there are if that is known.

    A DataLoader's batches are as it makes them; those of other data have ``batch_size`` samples. Ids are the positions
    in the data, unless they are given or a dataset of this library has its own.

    Args:
        bytes_allowed: uint8 values are pixels, to be divided by 255.

    Raises:
        TypeError, ValueError: the data, or a batch of them, are not what they should be.
    """
    if isinstance(data, TensorDataset):
        data = _pair(data.tensors)
    pair = isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray)
    if pair and (isinstance(data[1], Tensor | np.ndarray) or _numbers(data[1])):
        x, y = _checked(data, device, bytes_allowed)
        if len(x) == 0:
            raise ValueError("needs at least one image and one label each, got none")
        ids = ids_of(sample_ids, x)
        parts = (part.split(batch_size) for part in (x, y, ids))
        return map(Batch, *parts), len(x)
    if sample_ids is not None:
        raise ValueError("sample_ids go with a pair (x, y): other data are known by their positions")
    if isinstance(data, Split):
        raise TypeError("data must be one dataset, got a Split: pass its .test")
    if isinstance(data, str | Mapping | Tensor) or data is None:
        cure = " (fastat.data.load(name).test is the test set of that name)" if isinstance(data, str) else ""
        raise TypeError(f"data must be {_TAKEN}, got {type(data).__name__}{cure}")
    if isinstance(data, Dataset | Streamed | Mapped):
        return _of_dataset(data, batch_size, device), len(data)
    if isinstance(data, IterableDataset):
        raise TypeError(f"data must be {_TAKEN}, got an IterableDataset: pass DataLoader(data, {batch_size})")
    if isinstance(data, DataLoader) or not hasattr(data, "__getitem__"):
        if not isinstance(data, Iterable):
            raise TypeError(f"data must be {_TAKEN}, got {type(data).__name__}")
        return _of_loader(data, device, bytes_allowed), None
    if isinstance(data, tuple | list) and data and isinstance(data[0], tuple | list) and _is_batch(data[0]):
        return _of_loader(data, device, bytes_allowed), None
    dataset = as_dataset(data, "data")
    return _of_dataset(dataset, batch_size, device), len(dataset)


def ids_of(sample_ids: Tensor | None, x: Tensor) -> Tensor:
    """The given ids of samples where they are, or their positions; TypeError or ValueError for ids that do not fit."""
    if sample_ids is None:
        return torch.arange(len(x), device=x.device)
    if isinstance(sample_ids, Tensor) and sample_ids.shape != x.shape[:1]:
        raise ValueError(f"sample_ids must have the shape of y, ({len(x)},), got {tuple(sample_ids.shape)}")
    if isinstance(sample_ids, Tensor) and not sample_ids.is_meta:
        sample_ids = sample_ids.to(x.device)
    return integer_labels(sample_ids, x, "sample_ids")


def _of_dataset(dataset: AnyDataset, batch_size: int, device: torch.device | None) -> Iterator[Batch]:
    if device is not None:
        dataset = dataset.to(device)
    return dataset.batches(torch.arange(len(dataset)), batch_size, device=device)


def _of_loader(loader: Iterable[Any], device: torch.device | None, bytes_allowed: bool) -> Iterator[Batch]:
    position = 0
    for batch in loader:
        x, y = _checked(batch, device, bytes_allowed)
        if len(x) > 0:
            yield Batch(x, y, torch.arange(position, position + len(x), device=x.device))
        position += len(x)


def _is_batch(item: Any) -> bool:
    return len(item) == 2 and all(isinstance(part, Tensor | np.ndarray) and part.ndim > 0 for part in item)


def _numbers(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, int | np.integer) for one in value)


def _checked(batch: Any, device: torch.device | None, bytes_allowed: bool) -> tuple[Tensor, Tensor]:
    """x, floating-point, and integer labels y [B]."""
    x, y = (_tensor(part) for part in _pair(batch))
    if x.is_meta or y.is_meta:
        raise ValueError("x and y must hold values, got tensors on the device meta")
    x, y = (part if device is None else part.to(device, non_blocking=True) for part in (x, y))
    if x.dim() == 0 or y.shape != x.shape[:1]:
        cure = ": y.argmax(1)" if y.dim() == 2 and y.shape[1:] > (1,) else ": y.flatten()" if y.dim() > 1 else ""
        raise ValueError(
            f"needs at least one image and one label each, got x {tuple(x.shape)} and labels {tuple(y.shape)}{cure}"
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise TypeError(f"y must be integers, a class for each sample, got {y.dtype}")
    if x.dtype == torch.uint8:
        if not bytes_allowed:
            raise ValueError(
                "x of uint8 is divided by 255, which goes with bounds (0, 1) and pixels that are not normalized: "
                "pass it as floating-point"
            )
        x = x.float() / 255
    check_dense(x, "x")
    if not x.is_floating_point():
        raise TypeError(f"x must be floating-point, or uint8 of pixels from 0 to 255, got {x.dtype}")
    return x.detach(), y.long()


def _pair(batch: Any) -> Any:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        found = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, tuple | list) else type(batch).__name__
        raise TypeError(
            f"data must give pairs (x, y), got a {found}: pick them out, ((b['image'], b['label']) for b in loader) "
            "for example"
        )
    return batch


def _tensor(part: Any) -> Tensor:
    if isinstance(part, np.ndarray):  # with its bytes and its strides in the usual order
        part = np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("="))
    return torch.as_tensor(part)
