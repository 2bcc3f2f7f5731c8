"""Reaching into a network of any kind: the module inside its wrappers, its output, its mode, what running it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Model = Callable[[Tensor], Any]
"""An ``nn.Module`` or any function from inputs ``[B, ...]`` to logits ``[B, C]``, or to what holds them
(:func:`logits_of`)."""


def logits_of(output: Any) -> Tensor:
    """The logits in what a classifier returns: the tensor itself, or what stands under ``logits`` in a mapping or an
    object, as Hugging Face's models return it.

    Raises:
        TypeError: there are none; the message says what to pass instead.
    """
    if isinstance(output, Tensor):
        return output
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(found, Tensor):
        return found
    kind = f"{type(output).__name__} of {len(output)}" if isinstance(output, tuple | list) else type(output).__name__
    raise TypeError(
        f"the model must return logits [B, C], or a mapping or an object with `logits`, got a {kind}: pass a function "
        "or a module that picks them, lambda x: model(x)[0] for example"
    )


@contextmanager
def unwrapped(model: Model) -> Iterator[Model]:
    """Within the block, the model as one process runs it: without DistributedDataParallel around it or within.

    An attack's passes have no gradient of a parameter for the wrapper to wait for. Through it they would all the same
    broadcast buffers, and with ``static_graph`` take the place of the backward pass that is to be synchronized. A
    module around the wrapper, one that normalizes say, has the wrapped module in its place until the block ends. What
    was compiled together with a wrapper runs uncompiled. Wrappers out of sight, those that a function calls, stay.
    """
    if not isinstance(model, nn.Module) or not any(map(_is_ddp, model.modules())):
        yield model
        return
    with ExitStack() as swapped:
        yield _bare(model, swapped)


def _bare(module: nn.Module, swapped: ExitStack) -> nn.Module:
    if _is_ddp(module):
        return _bare(cast(nn.Module, module.module), swapped)
    if uncompiled(module) is not module and any(map(_is_ddp, module.modules())):
        return _bare(uncompiled(module), swapped)
    for name, child in module.named_children():
        bare = _bare(child, swapped)
        if bare is not child:
            module._modules[name] = bare
            swapped.callback(module._modules.__setitem__, name, child)
    return module


def _is_ddp(module: Any) -> bool:
    return isinstance(module, DistributedDataParallel)


def innermost(model: Any) -> Any:
    """The user's own module, inside the wrappers of torch.compile and DistributedDataParallel, in any order."""
    while (inner := model.module if _is_ddp(model) else uncompiled(model)) is not model:
        model = inner
    return model


def uncompiled(model: Any) -> Any:
    """The module inside one that torch.compile made."""
    return getattr(model, "_orig_mod", model)


@contextmanager
def in_eval_mode(model: Model) -> Iterator[None]:
    """Puts every module in eval mode, and back in the mode it had: some may have been in eval mode before.

    An exported module keeps the mode in which it was exported.
    """
    modes = [(module, module.training) for module in model.modules()] if isinstance(model, nn.Module) else []
    if not any(training for _, training in modes):
        yield
        return
    root = modes[0][0]
    with suppress(NotImplementedError):
        root.eval()
    try:
        yield
    finally:
        with suppress(NotImplementedError):
            root.train(modes[0][1])  # what a module does when its mode changes is done for the way back too
        for module, training in modes:
            module.training = training


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
