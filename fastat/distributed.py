"""A batch that is spread over the processes of torch.distributed: gathering it, with gradients."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup as Group


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
