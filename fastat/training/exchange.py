"""How the gradients of the processes that share a batch become one."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastat.support.distributed import Group, mean_


@dataclass
class Exchange:
    """The gradients of a group's processes, averaged: by DistributedDataParallel, which sends the first ones while the
    last are being computed, or after the backward pass.

    Attributes:
        model: the network that learns.
        group: its processes; None for this one alone.
        wrapped: the network as DistributedDataParallel has it, once a step has shown that it can.
        refused: why it cannot; empty if nothing speaks against it.
    """

    model: nn.Module
    group: Group | None
    wrapped: DistributedDataParallel | None = None
    refused: str = ""
    _seen: bool = field(default=False, repr=False)

    def around(self, forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """The network as training calls it in the next step."""
        if self.group is None or not self._seen or self.refused:
            return forward
        if self.wrapped is None:
            assert isinstance(forward, nn.Module)
            self.wrapped = DistributedDataParallel(
                forward,
                process_group=self.group,
                broadcast_buffers=False,  # the step averages the statistics of batch norm
                init_sync=False,  # all have the same weights
            )
        return self.wrapped

    def close(self) -> None:
        """Lets the wrapper go: one that outlives its group can abort the process."""
        if self.wrapped is not None:
            self.wrapped = None
            gc.collect()

    def average_(self, gradients: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        """Replaces gradients, and other tensors, by their means over the processes, in place, after a backward pass.

        The first time it looks for parameters that have no gradient, which DistributedDataParallel waits for.
        """
        if self.group is None:
            return
        mean_(others if self.wrapped is not None else [*gradients, *others], self.group)
        if not self._seen:
            unused = [name for name, p in self.model.named_parameters() if p.requires_grad and p.grad is None]
            self.refused = f"no gradient reaches {', '.join(unused)}" if unused else ""
            self._seen = True
