"""A batch that is spread over the processes of torch.distributed: joining them, gathering, averaging."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup as Group

DEFAULT_TIMEOUT = 1800.0
"""Seconds: longer than a download or a compilation for which the others wait."""
_GRACE = 10.0  # seconds for the others to say that they are there, once one has not answered


@contextmanager
def torchrun_group(device: torch.device, timeout: float = DEFAULT_TIMEOUT) -> Iterator[Group | None]:
    """The group of the processes that torchrun started this one with, left at the end; None in a process by itself.

    The processes talk through NCCL on a GPU and through Gloo on CPUs. NCCL ends a process that has waited for too long
    itself, with a message of its own.

    Args:
        timeout: seconds that they wait for one that does not answer.

    Raises:
        TimeoutError: one has ended, or has not answered for that long; the message says which.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield None
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    limit = timedelta(seconds=timeout)
    store, rank, size = next(dist.rendezvous("env://", timeout=limit))
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=dist.PrefixStore("default", store), rank=rank, world_size=size, timeout=limit
    )
    try:
        yield dist.group.WORLD
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "/gloo/" not in str(error):  # Gloo has no class of its own
            raise
        raise TimeoutError(_silence(dist.PrefixStore("answers", store), rank, size, timeout)) from error
    finally:
        dist.destroy_process_group()


def _silence(store: dist.Store, rank: int, size: int, timeout: float) -> str:
    """What to say once a process has not answered. Those that are there say so to each other, through the store."""
    others = [number for number in range(size) if number != rank]
    silent = others
    end = time.monotonic() + _GRACE
    try:
        store.set_timeout(timedelta(seconds=_GRACE))
        store.set(str(rank), "here")
        while len(silent) > 1 and time.monotonic() < end:
            time.sleep(0.1)
            silent = [number for number in others if not store.check([str(number)])]
    except RuntimeError:  # it was in a process that is silent itself
        silent = others
    which = "process" if len(silent) == 1 else "one of the processes"
    named = ", ".join(map(str, silent)) or "that torchrun started"
    return (
        f"{which} {named} of {size} (counted from 0) has ended, or has not answered for {timeout:g} seconds "
        "(--timeout): look for its own message. The same command continues from the last checkpoint"
    )


def local_rank() -> int:
    """Number of this process among those of its machine, 0 without torchrun."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def own_ids(batch: Tensor) -> Tensor:
    """Ids of the samples of a batch that nobody gave any, int64 ``[B]`` on its device: the position in the batch, and
    the rank of this process where there are several, so that no two have the same."""
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    return torch.arange(len(batch), device=batch.device) + (rank << 32)


def rank_of(group: Group | None) -> int:
    """Number of this process in the group; 0 without one."""
    return 0 if group is None else group.rank()


def size_of(group: Group | None) -> int:
    """Number of processes of the group; 1 without one."""
    return 1 if group is None else group.size()


def sum_(tensors: Sequence[Tensor], group: Group | None) -> None:
    """Replaces every tensor by its sum over the processes, in place, all in one exchange, in their widest dtype."""
    if group is None or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat, group=group)
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def mean_(tensors: Sequence[Tensor], group: Group | None) -> None:
    """Replaces every tensor by its mean over the processes, like :func:`sum_`."""
    sum_(tensors, group)
    if group is not None and tensors:
        torch._foreach_div_(list(tensors), group.size())


@torch.no_grad()
def copy_first_(tensors: Sequence[Tensor], group: Group | None) -> None:
    """Replaces every tensor by that of the first process, in place, in one exchange for each dtype."""
    if group is None:
        return
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        alike = [tensor for tensor in tensors if tensor.dtype == dtype]
        flat = torch.cat([tensor.reshape(-1) for tensor in alike])
        dist.broadcast(flat, dist.get_global_rank(group, 0), group=group)
        for tensor, part in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
            tensor.copy_(part.view_as(tensor))


def agreed(yes: bool, group: Group | None, device: torch.device) -> bool:
    """What the first process of the group says, on all of them."""
    if group is None:
        return yes
    flag = torch.tensor(int(yes and group.rank() == 0), device=device)
    dist.all_reduce(flag, group=group)
    return bool(flag)


def gathered(part: Tensor, group: Group) -> Tensor:
    """The parts of all processes one after the other, ``[N_1 + N_2 + ..., ...]``, in the order of their ranks.

    The processes may have different numbers of samples; on CUDA, learning them waits for the device once. Backward
    takes it that every process computes the same from the result: it is the gradient of the own part times the number
    of processes, since DistributedDataParallel divides the sum of the processes' gradients by it.

    Raises:
        ValueError: the parts are all empty.
    """
    return _Gather.apply(part, sizes_of(part, group), group)


def sizes_of(part: Tensor, group: Group) -> list[int]:
    """How many samples each process of the group has."""
    own = torch.tensor([len(part)], device=part.device)
    found = [torch.empty_like(own) for _ in range(group.size())]
    dist.all_gather(found, own, group=group)
    sizes: list[int] = torch.cat(found).tolist()
    if sum(sizes) == 0:
        raise ValueError("no process of the group has a sample")
    return sizes


def gather_parts(part: Tensor, sizes: list[int], group: Group) -> Tensor:
    """:func:`gathered` without a gradient, for parts of known sizes."""
    most = max(sizes)
    padded = part.new_zeros(most, *part.shape[1:])
    padded[: len(part)] = part
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded, group=group)
    return torch.cat([chunk[:size] for chunk, size in zip(found, sizes, strict=True)])


def first_of(sizes: list[int], group: Group) -> int:
    """Position of this process's first sample among all."""
    return sum(sizes[: group.rank()])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, sizes: list[int], group: Group) -> Tensor:
        ctx.first, ctx.size, ctx.processes = first_of(sizes, group), len(part), len(sizes)
        return gather_parts(part.detach(), sizes, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.processes * grads[0][ctx.first : ctx.first + ctx.size], None, None
