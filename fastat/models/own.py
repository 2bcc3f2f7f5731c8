"""Networks of one's own by the name of the function that makes them, "package.module:function"."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from typing import Any

from torch import nn

from fastat.models.external import PREFIXES

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Whether the name of a network is that of a function."""
    return _NAME.fullmatch(name) is not None and not name.startswith(PREFIXES)


def call_own(name: str, **offered: Any) -> Any:
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
        raise ValueError(f"{name} failed: {type(error).__name__}: {error}") from error


def own_model(name: str, num_classes: int, in_channels: int, image_size: tuple[int, int] | None) -> nn.Module:
    """The network that the function of that name makes, called with what it takes of num_classes, in_channels and
    image_size.

    Raises:
        ValueError: as :func:`call_own`; or it is no module.
    """
    made = call_own(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    if not isinstance(made, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, got {type(made).__name__}")
    return made
