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


class Watch:
    """A hook on a model that is changed by one thread: warns where another trains it.

    A pass counts as training where gradients are on and the inputs ask for none: what an attack differentiates are its
    inputs. Threads that the autograd engine starts are part of somebody's pass.
    """

    def __init__(self, model: nn.Module, how: str) -> None:
        self.watched = id(model)  # a copy made meanwhile keeps the hook
        self.how = how

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) != self.watched or id(module) in _changed():
            return
        if not torch.is_grad_enabled() or isinstance(threading.current_thread(), threading._DummyThread):
            return
        if not any(isinstance(one, Tensor) and one.requires_grad for one in args):
            warnings.warn(
                f"this thread runs the model with gradients on while another thread {self.how}: a training step would "
                "learn less than it should, or nothing. Attack and evaluate a copy (copy.deepcopy(model)), hold a "
                "threading.Lock around both, or run this pass under torch.no_grad()",
                RuntimeWarning,
                stacklevel=_level_of_the_caller(),
            )


@contextmanager
def changed(model: Any, how: str) -> Iterator[None]:
    """Within the block this thread has changed the model, which other threads are told that train it: ``how``, for
    messages, "has frozen its parameters". Not watched are modules compiled in place, which would be compiled again, and
    scripted ones, which take no hooks."""
    scripted = isinstance(model, torch.jit.ScriptModule)
    if not isinstance(model, nn.Module) or scripted or model._compiled_call_impl is not None:
        yield
        return
    mine = _changed()
    mine.append(id(model))
    handle = model.register_forward_pre_hook(Watch(model, how))
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


_SKIPPED = (os.path.dirname(torch.__file__), os.path.dirname(os.path.dirname(__file__)))


def _level_of_the_caller() -> int:
    """That of the innermost line outside of torch and of this library, for a warning of the function that asks."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_SKIPPED):
        frame, level = frame.f_back, level + 1
    return level
