"""What several rooms need: threat models, keyed draws, files, signals, groups of processes, function names."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any

__all__ = [
    "call_named",
    "did_you_mean",
    "distributed",
    "files",
    "interrupt",
    "is_function_name",
    "keyed",
    "threat",
]

_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What ends a message about a name that is not known: the one that was meant perhaps, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def is_function_name(name: str) -> bool:
    """Whether a name has the form of a function's, "package.module:function"."""
    return _FUNCTION.fullmatch(name) is not None


def call_named(name: str, **offered: Any) -> Any:
    """What the function of that name returns, called with those of the offered arguments that it takes.

    Modules are found as Python finds them, and in the current folder.

    Raises:
        ValueError: the module cannot be imported or has no such function, or the function raised; the message says so.
    """
    module_name, _, function_name = name.partition(":")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's code does at its import
        raise ValueError(f"{name}: {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{name}: {module_name} has no function {function_name}")
    try:
        taken = inspect.signature(function).parameters
        everything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
        arguments = {key: value for key, value in offered.items() if key in taken or everything}
        return function(**arguments)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{last.filename}, line {last.lineno}"
        raise ValueError(f"{name} failed: {type(error).__name__}: {error} ({place})") from error
