"""Reaching into a network of any kind: the module inside its wrappers, and what running it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Model = Callable[[Tensor], Tensor]
"""An ``nn.Module`` or any function from inputs ``[B, ...]`` to logits ``[B, C]``."""


def unwrapped(model: Model) -> Model:
    """The module inside a DistributedDataParallel one: an attack runs no parameter backward for DDP to wait for."""
    inner = uncompiled(model)
    return inner.module if isinstance(inner, DistributedDataParallel) else model


def uncompiled(model: Model) -> Model:
    """The module inside one that torch.compile made."""
    return getattr(model, "_orig_mod", model)


@contextmanager
def fresh_casts() -> Iterator[None]:
    """Under autocast, neither uses what was cast before nor leaves behind what is cast within."""
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


@contextmanager
def buffers_put_back(model: nn.Module) -> Iterator[None]:
    """Gives the model's buffers back what they held before the block."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
