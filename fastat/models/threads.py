"""A model that is changed for a while, its parameters frozen or its mode another, and a thread that trains it then."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_own = threading.local()
"""Of each thread: the models that it has changed, by identity, as often as it has."""

_SKIPPED = tuple(os.path.join(os.path.dirname(inside), "") for inside in (torch.__file__, os.path.dirname(__file__)))


class TrainingWatch:
    """A hook on a model that one thread has changed: warns where another begins a pass that looks like training.

    That is one with gradients on whose inputs ask for none: what an attack differentiates are its inputs. Threads that
    the autograd engine starts are part of somebody's pass.
    """

    def __init__(self, model: nn.Module, how: str) -> None:
        self.watched = id(model)  # a copy that is made meanwhile keeps the hook, and what was done to the model
        self.how = how

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if id(module) in _changed() or not torch.is_grad_enabled():
            return
        if isinstance(threading.current_thread(), threading._DummyThread):
            return
        if any(isinstance(one, Tensor) and one.requires_grad for one in (*args, *kwargs.values())):
            return
        if id(module) == self.watched:
            found = f"this thread runs the model with gradients on while another thread {self.how}"
            cure = (
                "Attack and evaluate a copy, hold a threading.Lock around both, or run this pass under torch.no_grad()"
            )
        elif all(p.requires_grad for p in module.parameters()):
            return
        else:
            found = f"this model is a copy, made while another thread {self.how}"
            cure = "Copy it before, or call requires_grad_() on its parameters"
        text = f"{found}: a training step would learn less than it should, or nothing. {cure}"
        warnings.warn(text, RuntimeWarning, stacklevel=_level_of_the_caller())


@contextmanager
def watched(model: Any, how: str) -> Iterator[None]:
    """Within the block this thread has changed the model: others that train it then are warned, with the words ``how``,
    "attacks it with frozen parameters". Not watched are modules compiled in place, which would be compiled again, and
    scripted ones, which take no hooks."""
    scripted = isinstance(model, torch.jit.ScriptModule)
    if not isinstance(model, nn.Module) or scripted or model._compiled_call_impl is not None:
        yield
        return
    mine = _changed()
    mine.append(id(model))
    handle = model.register_forward_pre_hook(TrainingWatch(model, how), with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
        mine.remove(id(model))


def _changed() -> list[int]:
    if not hasattr(_own, "models"):
        _own.models = []
    found: list[int] = _own.models
    return found


def _level_of_the_caller() -> int:
    """That of the innermost line outside of torch and of this library, for a warning of the function that asks."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame, level = frame.f_back, level + 1
    return level
