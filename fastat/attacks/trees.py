"""Values that may be a tensor or hold several: labels, and what a model takes beside the attacked inputs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, cast

from torch import Tensor

from fastat.graphs import Tensors


def taken_apart(value: Any, name: str, batch: int, tensors: dict[str, Tensor]) -> Hashable:
    """Adds the tensors in a value, of tuples, lists and dicts, to ``tensors`` by names that begin with ``name``.

    Returns:
        What :func:`put_together` needs beside the tensors; of the same structure, the same.

    Raises:
        ValueError: a tensor has no row for each sample.
    """
    if isinstance(value, Tensor):
        if value.dim() == 0 or value.shape[0] != batch:
            where = name.replace(".", " ")
            raise ValueError(
                f"{where} must have a row for each of the {batch} samples, got shape {list(value.shape)}: what all "
                "samples share goes into the model or the loss, by a lambda say"
            )
        tensors[name] = value
        return None
    if isinstance(value, Mapping):
        named = tuple((key, taken_apart(part, f"{name}.{key}", batch, tensors)) for key, part in value.items())
        return "mapping", named
    if isinstance(value, tuple | list):
        parts = tuple(taken_apart(part, f"{name}.{i}", batch, tensors) for i, part in enumerate(value))
        kind = type(value)
        return (kind if hasattr(kind, "_fields") else "tuple" if isinstance(value, tuple) else "list"), parts
    return "constant", value


def put_together(structure: Hashable, name: str, tensors: Tensors) -> Any:
    """The value that was taken apart."""
    if structure is None:
        return tensors[name]
    kind, parts = cast(tuple[Any, Any], structure)
    if kind == "constant":
        return parts
    if kind == "mapping":
        return {key: put_together(part, f"{name}.{key}", tensors) for key, part in parts}
    values = [put_together(part, f"{name}.{i}", tensors) for i, part in enumerate(parts)]
    return tuple(values) if kind == "tuple" else values if kind == "list" else kind(*values)
