"""Networks of one's own by the name of the function that makes them, "package.module:function"."""

from __future__ import annotations

from torch import nn

from fastat.models.external import PREFIXES
from fastat.support import call_named, is_function_name


def is_own(name: str) -> bool:
    """Whether the name of a network is that of a function."""
    return is_function_name(name) and not name.startswith(PREFIXES)


def own_model(name: str, num_classes: int, in_channels: int, image_size: tuple[int, ...]) -> nn.Module:
    """The network that the function of that name makes, called with what it takes of num_classes, in_channels and
    image_size.

    Raises:
        ValueError: as :func:`fastat.support.call_named`; or it is no module.
    """
    made = call_named(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size)
    if not isinstance(made, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, got {type(made).__name__}")
    return made
