"""Values that may be a tensor or hold several: labels, and what a model takes beside the attacked inputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

from torch import Tensor

from fastat.graphs import Tensors

_SHARED = (type(None), bool, int, float, str)
"""What all samples may share: it never changes, and equals nothing but itself with its type."""


def taken_apart(value: Any, name: str, batch: int, tensors: dict[str, Tensor]) -> Hashable:
    """Adds the tensors in a value, of tuples, lists and dicts, to ``tensors`` by names that begin with ``name``.

    Returns:
        What :func:`put_together` needs beside the tensors; of the same structure and numbers, the same.

    Raises:
        TypeError, ValueError: a tensor has no row for each sample, or something is no tensor and not shared either.
    """
    if isinstance(value, Tensor):
        if value.dim() == 0 or value.shape[0] != batch:
            raise ValueError(
                f"{_place(name)} must have a row for each of the {batch} samples, got shape {list(value.shape)}: what "
                "all samples share goes into the model or the loss, by a lambda say"
            )
        tensors[name] = value
        return None
    if isinstance(value, Mapping):
        named = [(key, taken_apart(part, f"{name}.{i}", batch, tensors)) for i, (key, part) in enumerate(value.items())]
        return "mapping", tuple(named)
    if isinstance(value, tuple | list):
        if len(value) == batch > 1 and not any(isinstance(part, Tensor | Mapping | tuple | list) for part in value):
            raise TypeError(f"{_place(name)} is a list of {batch} {type(value[0]).__name__}: pass a tensor of them")
        parts = tuple(taken_apart(part, f"{name}.{i}", batch, tensors) for i, part in enumerate(value))
        plain = "tuple" if isinstance(value, tuple) else "list"
        return (type(value) if hasattr(value, "_fields") else plain), parts
    if not isinstance(value, _SHARED):
        kind = type(value).__name__
        cure = "torch.as_tensor makes a tensor of it" if kind == "ndarray" else "put it into the model, by a lambda say"
        raise TypeError(f"{_place(name)} must be a tensor with a row for each sample, got {kind}: {cure}")
    return "shared", (type(value), value)


def put_together(structure: Hashable, name: str, tensors: Tensors) -> Any:
    """The value that was taken apart."""
    if structure is None:
        return tensors[name]
    kind, parts = cast(tuple[Any, Any], structure)
    if kind == "shared":
        return parts[1]
    if kind == "mapping":
        return {key: put_together(part, f"{name}.{i}", tensors) for i, (key, part) in enumerate(parts)}
    values = [put_together(part, f"{name}.{i}", tensors) for i, part in enumerate(parts)]
    return tuple(values) if kind == "tuple" else values if kind == "list" else kind(*values)


def _place(name: str) -> str:
    first, *others = name.split(".")
    return first + "".join(f"[{number}]" for number in others)
