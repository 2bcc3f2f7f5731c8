"""Settings that are objects or functions, as text: the same for the same one in every process, another for others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
from torch import Tensor, nn

from fastat.data import content_digest

_DEEP = 4  # objects within objects
_MANY = 16  # numbers


def said(value: Any, depth: int = 0) -> Any:
    """A part of a protocol, or another setting: numbers and text as they are, lists of these, else in words.

    Of a function its name and a digest of its code and of what it holds, of an object its class and what it holds; of a
    module its class alone, which training changes.
    """
    if isinstance(value, np.generic) and not isinstance(value, bool | int | float | str):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor | np.ndarray):
        small = (value.numel() if isinstance(value, Tensor) else value.size) <= _MANY
        return value.tolist() if small else f"{type(value).__name__} {_digest(value)}"
    if isinstance(value, nn.Module | type) or depth == _DEEP:
        return _name(value if isinstance(value, type) else type(value))
    deeper = depth + 1
    if isinstance(value, tuple | list):
        return [said(part, deeper) for part in value]
    if isinstance(value, Set):
        return sorted((said(part, deeper) for part in value), key=repr)
    if isinstance(value, Mapping):
        return {str(key): said(part, deeper) for key, part in value.items()}
    if isinstance(value, partial):
        return _call(said(value.func, deeper), value.args, value.keywords, deeper)
    if isinstance(value, MethodType):
        return f"{said(value.__func__, deeper)} of {said(value.__self__, deeper)}"
    if isinstance(value, FunctionType):
        held = [value.__defaults__, value.__kwdefaults__, *_held(value)]
        does = repr([_code(value.__code__, value.__doc__), [said(one, deeper) for one in held]])
        return f"{_name(value)} {content_digest(does)[:8]}"
    if dataclasses.is_dataclass(value):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value) if one.init}
        return _call(type(value).__name__, (), fields, deeper)
    if not hasattr(value, "__dict__"):
        return _name(value) if hasattr(value, "__qualname__") else repr(value)
    own_call = vars(type(value)).get("__call__")
    does = f" {said(own_call, deeper)}" if isinstance(own_call, FunctionType) else ""
    return _call(type(value).__name__, (), vars(value), deeper) + does


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _call(name: str, arguments: tuple[Any, ...], named: Mapping[str, Any], depth: int) -> str:
    parts = [repr(said(one, depth)) for one in arguments]
    parts += [f"{key}={said(one, depth)!r}" for key, one in named.items()]
    return f"{name}({', '.join(parts)})"


def _held(function: FunctionType) -> list[Any]:
    """What the function closes over, itself apart."""
    found = []
    for cell in function.__closure__ or ():
        try:
            found.append(cell.cell_contents)
        except ValueError:  # not filled yet
            continue
    return [one for one in found if one is not function]


def _code(code: CodeType, documentation: str | None) -> list[Any]:
    """What a function does: its code, the names and constants that this refers to; of those within it likewise."""
    constants = [one for one in code.co_consts if one is None or one != documentation]
    within = [_code(one, None) if isinstance(one, CodeType) else said(one) for one in constants]
    return [code.co_code.hex(), list(code.co_names), within]


def _digest(value: Tensor | np.ndarray[Any, Any]) -> str:
    return content_digest("", value) if isinstance(value, Tensor) else content_digest(value.tobytes().hex())
