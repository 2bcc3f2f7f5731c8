"""Reaching into a network of any kind: the module inside its wrappers, and what running it leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
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
