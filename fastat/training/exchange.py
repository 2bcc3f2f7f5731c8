"""How the gradients of the processes that share a batch become one."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastat.support.distributed import Group, mean_

_LEFT_OUT = (
    "a gradient has not reached every parameter in this step, but did in the first: for a network that leaves parts "
    "out in some steps (layer drop, experts) pass find_unused_parameters=True"
)


@dataclass
class Exchange:
    """The gradients of a group's processes, averaged: by DistributedDataParallel, which sends the first ones while the
    last are being computed, or after the backward pass.

    The first step does the latter. If a gradient has reached every parameter in every process, the others are left to
    DistributedDataParallel, which would wait for those that are missing; else all steps are like the first.

    Attributes:
        model: the network that learns.
        group: its processes; None for this one alone.
        wrapped: the network as DistributedDataParallel has it, from the second step on.
        refused: why there is none; empty if nothing speaks against it.
        probed: whether a first step has decided.
    """

    model: nn.Module
    group: Group | None
    wrapped: DistributedDataParallel | None = None
    refused: str = "the first step has to show whether a gradient reaches every parameter"
    probed: bool = False

    def around(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The network as training calls it in the next step."""
        if self.group is None or self.refused:
            return forward
        if self.wrapped is None:
            assert isinstance(forward, nn.Module)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "broadcast_buffers", FutureWarning)
                self.wrapped = DistributedDataParallel(
                    forward,
                    process_group=self.group,
                    broadcast_buffers=False,  # the step sees to the buffers
                    init_sync=False,  # all have the same weights
                )
        return self.wrapped

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Within the block what DistributedDataParallel says of a gradient that it waits for comes with the remedy."""
        try:
            yield
        except RuntimeError as error:
            if self.wrapped is None or "finished reduction" not in str(error):
                raise
            raise RuntimeError(_LEFT_OUT) from error

    def close(self) -> None:
        """Lets the wrapper go: one that outlives its group can abort the process."""
        if self.wrapped is not None:
            self.wrapped = None
            gc.collect()

    def average_(self, others: Sequence[Tensor]) -> None:
        """Replaces the gradients of the network, and other tensors, by their means over the processes, in place.

        To be called after a backward pass. A parameter that a gradient reaches in some processes alone has none in the
        others, which counts as zero.
        """
        if self.group is None:
            return
        if self.wrapped is not None and any(p.requires_grad and p.grad is None for p in self.model.parameters()):
            raise RuntimeError(_LEFT_OUT)
        gradients = [] if self.wrapped is not None else self._gradients(self.group)
        mean_([*gradients, *others], self.group)

    def _gradients(self, group: Group) -> list[Tensor]:
        """Those of the parameters that a gradient reaches in any process: the same ones in all."""
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        reached = torch.tensor([float(p.grad is not None) for _, p in named], device=named[0][1].device)
        both = torch.cat([reached, -reached])
        dist.all_reduce(both, dist.ReduceOp.MAX, group=group)
        anywhere, everywhere = both.view(2, -1).abs().tolist()
        unreached = [name for (name, _), reached_all in zip(named, everywhere, strict=True) if not reached_all]
        if not self.probed:
            self.refused = f"no gradient reaches {', '.join(unreached)}" if unreached else ""
            self.probed = True
        found = []
        for (_, p), reached_one in zip(named, anywhere, strict=True):
            if reached_one:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                found.append(p.grad)
        return found


def exchange_of(model: nn.Module, group: Group | None, find_unused_parameters: bool) -> Exchange:
    """That of a run; see :class:`fastat.training.RunConfig`."""
    if find_unused_parameters:
        return Exchange(model, group, refused="it may leave parameters out in some steps", probed=True)
    return Exchange(model, group)
