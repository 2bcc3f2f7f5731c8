"""Whether tensors share memory: what an op writes must share none with itself or with what it reads."""

from __future__ import annotations

import torch
from torch import Tensor


def check_written(target: Tensor, name: str, **inputs: object) -> None:
    """Checks a tensor that an op writes, before anything is written. Inputs that are no tensors are passed over.

    Raises:
        RuntimeError: it requires grad while grad mode is on.
        ValueError: entries of it share memory with each other or with an input, or are kept negated.
    """
    if target.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"{name} requires grad, and an in-place op cannot write it while grad mode is on: detach it, or use no_grad"
        )
    if torch.compiler.is_compiling():
        return
    if target.is_neg():
        raise ValueError(f"{name} is a view of other numbers, negated: pass {name}.resolve_neg()")
    place = _extent(target)
    if place is None:
        return
    if not target.is_contiguous() and _overlaps_itself(target):
        raise ValueError(f"{name} has entries that share memory (it is expanded): pass {name}.clone()")
    for other, value in inputs.items():
        if isinstance(value, Tensor) and _overlap(target, place, value):
            raise ValueError(f"{name}, which is written, shares memory with {other}: pass {other}.clone()")


def _overlaps_itself(t: Tensor) -> bool:
    return not _nested(_dims(t)) and bool(_offsets(t).bincount().max() > 1)


def _nested(dims: list[tuple[int, int]]) -> bool:
    """Whether a step along each dimension is longer than all shorter ones reach together: no two entries meet then."""
    extent = 1
    for stride, size in reversed(dims):
        if stride < extent:
            return False
        extent += stride * (size - 1)
    return True


def _overlap(written: Tensor, place: tuple[int, int], read: Tensor) -> bool:
    """Whether two tensors have an entry at the same place in memory; ``place`` is that of the first."""
    first, last = place
    there = _extent(read)
    if there is None or last <= there[0] or there[1] <= first or written.device != read.device:
        return False
    size = written.element_size()
    offset, rest = divmod(there[0] - first, size)
    if offset == 0 or rest != 0 or read.element_size() != size:
        return True
    dims = _dims(written)
    if dims == _dims(read) and _nested(dims):
        return _meets(offset, dims)
    return bool(torch.isin(_offsets(written), _offsets(read) + offset).any())


def _meets(offset: int, dims: list[tuple[int, int]]) -> bool:
    """Whether two tensors of these nested dimensions share an entry at this offset: some steps along each dimension,
    fewer than it has entries, lead from one to the other."""
    if not dims:
        return offset == 0
    (stride, size), *smaller = dims
    steps = {offset // stride, -(-offset // stride)}  # the others together are less than one
    return any(abs(k) < size and _meets(offset - k * stride, smaller) for k in steps)


def _dims(t: Tensor) -> list[tuple[int, int]]:
    """Strides and sizes, the longest stride first, without dimensions of one entry."""
    return sorted(((s, n) for s, n in zip(t.stride(), t.shape, strict=True) if n > 1), reverse=True)


def _extent(t: Tensor) -> tuple[int, int] | None:
    """The addresses of its first byte and of the byte after its last; None for one without memory: an empty or an
    imagined one, as tracers have."""
    try:
        first = 0 if t.untyped_storage().device.type == "meta" else t.data_ptr()
    except RuntimeError:
        return None
    if first == 0 or t.numel() == 0:
        return None
    if t.is_contiguous():
        return first, first + t.nbytes
    entries = 1 + sum(stride * (size - 1) for stride, size in zip(t.stride(), t.shape, strict=True))
    return first, first + entries * t.element_size()


def _offsets(t: Tensor) -> Tensor:
    """Where its entries stand, counted from the first one."""
    offsets = torch.zeros((), dtype=torch.int64)
    for stride, size in zip(t.stride(), t.shape, strict=True):
        offsets = offsets.unsqueeze(-1) + stride * torch.arange(size)
    return offsets.flatten()
