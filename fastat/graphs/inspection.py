"""What a recorded forward pass of a module depends on, so that a change of it can be seen."""

from __future__ import annotations

import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules

from fastat.models import TrainingWatch


class CaptureError(RuntimeError):
    """Work cannot be recorded as a CUDA graph; the message says why."""


@dataclass(frozen=True)
class Survey:
    """A module as it is now.

    Attributes:
        modules: itself, its submodules, and modules it keeps in lists and the like without registering them.
        objects: what they hold beside modules, tensors and torch's own objects, and was looked into: its attributes.
        tensors: parameters, buffers and other tensors among the attributes of all these.
        state: what stays equal as long as a recorded forward pass stays right, beside the modes and what the tensors
            hold: types and attributes, with the places of tensors in memory. An object or a container is looked into
            down to four within each other, and an object that a bound method belongs to as well. Not seen: what is in
            containers of more than 1000 things other than tensors and modules, in arrays of numpy, closures and
            ``__slots__``, attributes of classes, and the globals of Python's modules.
    """

    modules: list[nn.Module]
    objects: list[Any]
    tensors: list[Tensor]
    state: tuple[Any, ...]

    @property
    def modes(self) -> tuple[bool, ...]:
        """Of each module, whether it is in train mode."""
        return tuple(module.training for module in self.modules)


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device})
_CONTAINERS = frozenset({tuple, list, set, dict, OrderedDict, torch.Size})
_KINDS_OF_CONTAINERS = (tuple, list, set, frozenset, dict, deque)
_CODE = (types.FunctionType, types.BuiltinFunctionType, types.ModuleType, type)
_DEPTH, _LENGTH = 4, 1000
_NOT_OF_FORWARD = frozenset({
    "training", "_non_persistent_buffers_set", "_state_dict_hooks", "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks",
})  # fmt: skip
"""Attributes that every module has and no forward pass reads, and the mode, which is told apart from the state."""
_GLOBAL_HOOKS = (
    "_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks", "_global_backward_pre_hooks",
)  # fmt: skip


def survey(model: nn.Module) -> Survey:
    """Looks a module over, in time that grows with its submodules and their attributes.

    Raises:
        CaptureError: it has tensors whose memory cannot be told, sparse ones for example.
    """
    modules, objects, tensors = [model], [], []
    known = {id(model): _DEPTH}  # how deep one was looked into: it may be met again nearer to a module

    def comparable(value: Any, depth: int = _DEPTH) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind in _CONTAINERS:
            return contents(value, depth)
        if isinstance(value, Tensor):
            tensors.append(value)
            return place(value)
        if isinstance(value, nn.Module):
            if id(value) not in known:  # has a place of its own in the list that is gone through
                known[id(value)] = _DEPTH
                modules.append(value)
            return _identity(value)
        if kind is types.MethodType:
            return _identity(value), comparable(value.__self__, depth)
        if isinstance(value, _KINDS_OF_CONTAINERS):
            return contents(value, depth)
        if not hasattr(value, "__dict__") or _is_code(value) or depth <= known.get(id(value), 0):
            return _identity(value)
        if id(value) not in known:
            objects.append(value)
        known[id(value)] = depth
        return _identity(value), *contents(vars(value), depth)

    def contents(value: Any, depth: int) -> tuple[Any, ...]:
        keys: Any = None
        entries = value
        if isinstance(value, dict):
            keys = tuple(key if type(key) in _PLAIN else _identity(key) for key in value)
            entries = value.values()
        if len(value) > _LENGTH and not isinstance(next(iter(entries)), Tensor | nn.Module):
            return *_identity(value), len(value)
        if _PLAIN.issuperset(map(type, entries)):
            return keys, *entries
        if depth == 0:
            return id(value), *map(id, entries)  # not held: the module may be among them
        if depth <= known.get(id(value), 0):
            return (id(value),)
        known[id(value)] = depth
        return keys, *[comparable(entry, depth - 1) for entry in entries]

    states = []
    for module in modules:  # grows meanwhile
        values = [  # most are empty hooks: not worth a call
            v if (kind := type(v)) in _PLAIN else () if kind in _CONTAINERS and not v else comparable(v)
            for name, v in _attributes(module)
        ]
        states.append((type(module), *values))
    hooks = tuple(tuple(getattr(_modules, name, ())) for name in _GLOBAL_HOOKS)
    return Survey(modules, objects, tensors, (hooks, *states))


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Those that a forward pass may read, without the hook of whoever changes the module now."""
    for name, value in vars(module).items():
        if name in ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs") and value:
            hooks = module._forward_pre_hooks
            yield name, {key: one for key, one in value.items() if not isinstance(hooks.get(key), TrainingWatch)}
        elif name not in _NOT_OF_FORWARD:
            yield name, value


def place(t: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies in memory, and how.

    Raises:
        CaptureError: that cannot be told.
    """
    try:
        return t.data_ptr(), t.shape, t.stride(), t.dtype, t.device
    except RuntimeError as error:
        raise CaptureError(
            f"the memory of a tensor of the model cannot be told ({t.layout}, {type(t).__name__})"
        ) from error


def _is_code(value: Any) -> bool:
    """Whether it is code, or an object of torch itself, such as an optimizer."""
    return isinstance(value, _CODE) or type(value).__module__.partition(".")[0] == "torch"


def _identity(value: Any) -> tuple[int, Any]:
    """Equal for the same object only; an address alone may be used again.

    What allows no weak reference is held, but for objects with attributes, which may hold the module.
    """
    try:
        return id(value), weakref.ref(value)
    except TypeError:
        return id(value), type(value) if hasattr(value, "__dict__") else value


def first_difference(model: nn.Module, before: Survey, after: Survey) -> str:
    """The first attribute that differs, "" if none does."""
    if before.state == after.state:
        return ""
    names = {module: name for name, module in model.named_modules()}
    for module, old, new in zip(after.modules, before.state[1:], after.state[1:], strict=False):
        where = f"{names.get(module, 'a submodule') or 'the model'} ({type(module).__name__})"
        keys = [key for key in vars(module) if key not in _NOT_OF_FORWARD]
        for key, one, other in zip(keys, old[1:], new[1:], strict=False):
            if one != other:
                return f"the attribute {key!r} of {where}"
        if old != new:
            return f"the attributes of {where}"
    return "the submodules of the model"
