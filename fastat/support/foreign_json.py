"""JSON files that somebody else may have written: read from where they should be, and checked before they are used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_inside(folder: Path, name: str) -> bytes:
    """The content of a file of the folder: nothing else that the folder, or its author, has a link or a path to.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is outside of the folder, or no regular file.
    """
    file = folder / name
    if not file.exists():
        raise FileNotFoundError(f"{folder} has no {name!r:.60}")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{name!r:.60} is a link to a file outside of {folder}, which is not read: copy it there")
    if not file.is_file():
        raise ValueError(f"{name!r:.60} in {folder} is not a regular file")
    return file.read_bytes()


def read_object(text: bytes, kind: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The JSON object in a text, of the kind that :func:`check_json` takes; ValueError, which names it, for others."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise ValueError(f"{name}: {reason}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name}: holds no JSON object")
    check_json(value, kind, f"{name}:")
    return value


def check_json(value: Any, kind: Any, place: str) -> None:
    """Raises ValueError, which names the place in the file, unless a JSON value is of the kind.

    Args:
        value: what was read.
        kind: str, int, float (any number) or object (anything); a set of texts, of which it must be one; ``[kind]`` for
            a list; ``{"name": kind}`` for an object with at least these fields, ``{...: kind}`` for one with fields of
            any names; ``(kind,)`` allows null too.
        place: of the value, "results.json:" for the whole of a file.
    """
    if isinstance(kind, tuple):
        if value is not None:
            check_json(value, kind[0], place)
    elif isinstance(kind, list) and isinstance(value, list):
        for number, item in enumerate(value):
            check_json(item, kind[0], f"{place} {number}")
    elif isinstance(kind, dict) and isinstance(value, dict):
        fields = dict.fromkeys(value, kind[...]) if ... in kind else kind
        if missing := [name for name in fields if name not in value]:
            raise ValueError(f"{place} lacks {', '.join(missing)}; another version of fastat may have written it")
        for name, inner in fields.items():
            check_json(value[name], inner, f"{place} {_short(name)[1:-1]}")
    elif isinstance(kind, list | dict):
        raise ValueError(f"{place} must be {'a list' if isinstance(kind, list) else 'an object'}, got {_short(value)}")
    elif isinstance(kind, set):
        if not isinstance(value, str) or value not in kind:
            raise ValueError(f"{place} must be one of {', '.join(sorted(kind))}, got {_short(value)}")
    elif kind is not object and not _is_plain(value, kind):
        raise ValueError(f"{place} must be {_KINDS[kind]}, got {_short(value)}")


def _is_plain(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        return False
    return not isinstance(value, int) or abs(value) <= 2**53


def _short(value: Any) -> str:
    """On one line, without control characters."""
    return ascii(value)[:60]


_KINDS = {str: "a text", int: "a whole number", float: "a number"}
