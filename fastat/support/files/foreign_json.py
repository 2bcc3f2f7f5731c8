"""JSON files that somebody else may have written: read from where they should be, and checked before they are used."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from numbers import Real
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


def read_file(file: Path, kind: Mapping[Any, Any]) -> dict[str, Any]:
    """The JSON object in a file, of the kind that :func:`check_json` takes.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it holds something else; the message names the file and what to do.
    """
    try:
        return read_object(content_of(file), kind, str(file))
    except ValueError as error:
        raise ValueError(f"{error}; bring back a copy of this file, or delete it") from error


def content_of(file: Path) -> bytes:
    """The content of a file; ValueError, which names it, for a pipe or a device, which might never end."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise ValueError(f"{file}: is not a regular file")
    return file.read_bytes()


def read_object(text: bytes, kind: Mapping[Any, Any], name: str) -> dict[str, Any]:
    """The JSON object in a text, of the kind that :func:`check_json` takes; ValueError, which names it, for others."""
    try:
        value = json.loads(text)
        if b"\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()  # halves of a surrogate pair can be read, not written
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
        kind: str, int, float (a finite number), Real (any number, infinite ones and NaN too), bool or object (anything
            that is not nested beyond 20 levels); a set of texts, of which it must be one; ``[kind]`` for a list;
            ``{"name": kind}`` for an object with at least these fields, ``{...: kind}`` for one with fields of any
            names; ``(kind,)`` allows null too.
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
            check_json(value[name], inner, f"{place} {shortly(name)[1:-1]}")
    elif isinstance(kind, list | dict):
        raise ValueError(f"{place} must be {'a list' if isinstance(kind, list) else 'an object'}, got {shortly(value)}")
    elif isinstance(kind, set):
        if not isinstance(value, str) or value not in kind:
            raise ValueError(f"{place} must be one of {', '.join(sorted(kind))}, got {shortly(value)}")
    elif kind is object:
        if not _is_shallow(value):
            raise ValueError(f"{place} is nested too deeply, or too large")
    elif not _is_plain(value, kind):
        raise ValueError(f"{place} must be {_KINDS[kind]}, got {shortly(value)}")


def shortly(value: Any) -> str:
    """A value for a message: on one line, without control characters, of 300 characters at most, made without going
    through all of it."""
    try:
        text = repr(value[:_LETTERS]) if isinstance(value, str) else " ".join(_REPR.repr(value).split())
    except (RecursionError, ValueError):  # an integer of thousands of digits, in a checkpoint
        return f"a {type(value).__name__}"
    return text if len(text) <= _LETTERS else f"{text[: _LETTERS - 1]}…"


def _is_plain(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if isinstance(value, str):
        return kind is str and (value.isascii() or value.encode(errors="ignore").decode() == value)  # no surrogates
    if isinstance(value, int):
        return kind in (int, float, Real) and abs(value) <= 2**53
    return isinstance(value, float) and (kind is Real or (kind is float and abs(value) <= MOST))  # false for NaN


def _is_shallow(value: Any) -> bool:
    """Whether it has few enough levels and items, written out: in a checkpoint lists may share their items."""
    level, items = {id(value): (value, 1)}, 0
    for _ in range(_LEVELS):
        below: dict[int, tuple[Any, int]] = {}
        for one, times in level.values():
            for inner in one.values() if isinstance(one, dict) else one if isinstance(one, list | tuple) else ():
                below[id(inner)] = (inner, below.get(id(inner), (inner, 0))[1] + times)
        level, items = below, items + sum(times for _, times in below.values())
    return items <= _ITEMS and not any(isinstance(one, dict | list | tuple) for one, _ in level.values())


_KINDS = {str: "a text", int: "a whole number", float: "a number", Real: "a number", bool: "true or false"}
_LEVELS, _ITEMS = 20, 10_000_000
_LETTERS = 300
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxtuple, _REPR.maxdict, _REPR.maxset = 2, 12, 12, 12, 12
_REPR.maxstring = _REPR.maxother = 60
MOST = 1e100
"""Numbers beyond it drawings cannot show."""
