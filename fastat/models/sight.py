"""The modules that a model consists of, as far as they can be seen from outside."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from types import BuiltinFunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

_DEEP = 4
"""Through how many functions, containers and objects a module is looked for."""

_LONG = 1000
"""Of a longer list no more is looked at: it is data."""

_REFERENCES = ("__self__", "__func__", "func", "args", "keywords", "__defaults__", "__kwdefaults__")
"""Of methods, partials and functions."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def modules_in_sight(model: Any) -> list[nn.Module]:
    """The modules of a model, in lists that it keeps too; of a function those that it refers to: by a name, a default,
    a bound argument, or through another function, a list, a dict or an object."""
    seen: dict[int, Any] = {}
    found: dict[int, nn.Module] = {}
    _look(model, 0, seen, found)
    return list(found.values())


def _look(value: Any, depth: int, seen: dict[int, Any], found: dict[int, nn.Module]) -> None:
    if depth > _DEEP or id(value) in seen or isinstance(value, Tensor | ModuleType | str | bytes | int | float):
        return
    seen[id(value)] = value  # kept, so that no other object gets its identity meanwhile
    if isinstance(value, nn.Module):
        for module in value.modules():
            if id(module) not in found:
                found[id(module)] = module
                for name, kept in vars(module).items():
                    if name not in _OF_EVERY_MODULE and isinstance(kept, list | tuple | dict):
                        _look(kept, depth + 1, seen, found)
        return
    for part in _parts(value):
        _look(part, depth + 1, seen, found)


def _parts(value: Any) -> Iterator[Any]:
    """What a container, a function or an object holds or refers to."""
    if isinstance(value, Mapping):
        yield from islice(value.values(), _LONG)
    elif isinstance(value, list | tuple | set | frozenset):
        yield from islice(value, _LONG)
    elif isinstance(value, type):
        if not value.__module__.startswith(("torch", "builtins")):
            yield from vars(value).values()
    elif not isinstance(value, BuiltinFunctionType) and not type(value).__module__.startswith("torch"):
        yield from (getattr(value, name, None) for name in _REFERENCES)
        yield from vars(value).values() if hasattr(value, "__dict__") else ()
        with suppress(TypeError, ValueError):
            names = inspect.getclosurevars(value)
            yield from names.nonlocals.values()
            yield from names.globals.values()
