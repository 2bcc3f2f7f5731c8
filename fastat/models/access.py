"""Reaching into a network of any kind: the module inside its wrappers, its output, its mode, what running it leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastat.models.sight import modules_in_sight
from fastat.models.threads import watched

Model = Callable[[Tensor], Any]
"""An ``nn.Module`` or any function from inputs ``[B, ...]`` to logits ``[B, C]``, or to what holds them
(:func:`logits_of`)."""


_ORDERED = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32,
    torch.int64,
}  # fmt: skip
"""Types of numbers of which torch finds the largest."""


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


def class_logits(output: Any) -> Tensor:
    """The logits of classes ``[B, C, ...]``, C >= 2, in what a classifier returns: a single logit ``[B]`` or
    ``[B, 1, ...]``, of class 1 against class 0, counts as the pair (0, z).

    Raises:
        TypeError, ValueError: there are none.
    """
    logits = logits_of(output)
    if logits.layout != torch.strided or logits.dim() == 0 or 0 in logits.shape[1:2]:
        found = list(logits.shape) if logits.layout == torch.strided else logits.layout
        raise ValueError(f"the model must return logits [B, C], a dense tensor of at least one class, got {found}")
    if logits.dtype not in _ORDERED:
        raise TypeError(f"the model must return logits that can be compared, float32 for one, got {logits.dtype}")
    if logits.dim() == 1 or (logits.dim() > 1 and logits.shape[1] == 1):
        z = logits.unsqueeze(1) if logits.dim() == 1 else logits
        return torch.cat([torch.zeros_like(z), z], dim=1)
    return logits


@contextmanager
def unwrapped(model: Model) -> Iterator[Model]:
    """Within the block, the model as one process runs it: without DistributedDataParallel around it or within.

    An attack's passes have no gradient of a parameter for the wrapper to wait for. Through it they would all the same
    broadcast buffers, and with ``static_graph`` take the place of the backward pass that is to be synchronized. A
    module around the wrapper, one that normalizes say, has the wrapped module in its place until the block ends. What
    was compiled together with a wrapper runs uncompiled. Wrappers out of sight stay: in a list, or in a function.

    Raises:
        ValueError: such a one has ``static_graph``: its gradients would not be synchronized.
    """
    _refuse_static_out_of_sight(model)
    if not isinstance(model, nn.Module) or not any(map(_is_ddp, model.modules())):
        yield model
        return
    with ExitStack() as swapped:
        yield _bare(model, swapped)


def _refuse_static_out_of_sight(model: Model) -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return
    registered = set(map(id, model.modules())) if isinstance(model, nn.Module) else set()
    for module in modules_in_sight(model):
        if id(module) not in registered and _is_ddp(module) and cast(Any, module).static_graph:
            raise ValueError(
                "a DistributedDataParallel with static_graph=True is called by a function or kept in a list, where an "
                "attack through it would leave gradients unsynchronized: pass the wrapper, or a module that holds it"
            )


def _bare(module: nn.Module, swapped: ExitStack) -> nn.Module:
    if _is_ddp(module):
        return _bare(cast(nn.Module, module.module), swapped)
    if uncompiled(module) is not module and any(map(_is_ddp, module.modules())):
        return _bare(uncompiled(module), swapped)
    for name, child in list(module._modules.items()):  # one that has two names is there twice
        bare = None if child is None else _bare(child, swapped)
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


def any_compiled(model: Model) -> bool:
    """Whether torch.compile made the model or a module of it."""
    modules = model.modules() if isinstance(model, nn.Module) else []
    return any(uncompiled(module) is not module or module._compiled_call_impl is not None for module in modules)


def run_eagerly(model: Model) -> AbstractContextManager[Any]:
    """Within the block compiled modules run as they were written: compiled code has no second derivative, and passes
    hooks by. The compiler is not imported where nothing is compiled, which takes seconds."""
    return torch.compiler.set_stance("force_eager") if any_compiled(model) else nullcontext()


@contextmanager
def in_eval_mode(model: Model) -> Iterator[None]:
    """Puts every module in eval mode, of a function those that it refers to, and back in the mode it had: some may have
    been in eval mode before. Where several threads evaluate one model, the last of them does that.

    An exported module keeps the mode in which it was exported.
    """
    key = id(model)
    with _evaluated_lock:
        evaluation = _evaluated.get(key)
        if evaluation is None:
            evaluation = _evaluated[key] = _Evaluation(ExitStack())
            evaluation.was_training = evaluation.undo.enter_context(_put_in_eval_mode(model))
        evaluation.blocks += 1
    try:
        with watched(model, "evaluates it in eval mode") if evaluation.was_training else nullcontext():
            yield
    finally:
        with _evaluated_lock:
            evaluation.blocks -= 1
            if evaluation.blocks == 0:
                del _evaluated[key]
                evaluation.undo.close()


@dataclass
class _Evaluation:
    """Of one model: what puts it back, and how many blocks are to end before."""

    undo: ExitStack
    blocks: int = 0
    was_training: bool = False


_evaluated: dict[int, _Evaluation] = {}
_evaluated_lock = threading.Lock()


@contextmanager
def _put_in_eval_mode(model: Model) -> Iterator[bool]:
    """Whether any module was in train mode."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else modules_in_sight(model)
    if not any(module.training for module in modules):
        yield False
        return
    with modes_kept(model):
        for module in modules[:1] if isinstance(model, nn.Module) else modules:
            with suppress(NotImplementedError):
                module.eval()
        yield True


@contextmanager
def modes_kept(model: Model) -> Iterator[None]:
    """Puts every module back in the mode it had, by its own ``train``: what a module does when its mode changes, an
    adapter that merges its weights say, is done for the way back too."""
    modes = [(module, module.training) for module in modules_in_sight(model)]
    try:
        yield
    finally:
        for module, training in modes:  # a module before those within it, whose modes it changes
            if module.training != training:
                with suppress(NotImplementedError):  # of an exported one
                    module.train(training)
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
