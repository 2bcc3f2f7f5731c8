"""Files of a run, each written whole or not at all: a kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch


@contextmanager
def replacing(path: Path, *, by_many: bool = False) -> Iterator[IO[bytes]]:
    """A stream whose content is at path at the end; it comes there from a temporary file beside it, synced to the disk.

    Args:
        path: the file, which stays as it is if the writing fails.
        by_many: several threads and processes may write it at once. Else one writes to a folder at a time, and what a
            killed one left half done is overwritten.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp" if by_many else f".{path.name}.tmp")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk says no name
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Puts content at path through :func:`replacing`."""
    with replacing(path) as stream:
        stream.write(content)


def write_json(path: Path, value: Any) -> None:
    """One JSON value, indented."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object per line."""
    write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Saves a dict of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_bytes(path, buffer.getvalue())


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Loads what :func:`save_checkpoint` saved, to the CPU. Only tensors and plain values are read, never code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file makes the unpickler stumble in any way, an IndexError for one
        raise ValueError(f"{path} is not a checkpoint that can be read: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Descriptions "field: old -> new" of where the two differ, by the field's name; a missing value is None."""
    return [
        f"{field}: {old.get(field)!r} -> {new.get(field)!r}"
        for field in sorted(old.keys() | new.keys())
        if old.get(field) != new.get(field)
    ]


def check_same_settings(folder: Path, kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises ValueError if a folder holds something of other settings than those of now; the message names the fields.

    Args:
        folder: where ``old`` was saved.
        kind: of what is there, "a run of another configuration".
    """
    if differing := differences(old, new):
        raise ValueError(f"{folder} holds {kind} ({'; '.join(differing)}): choose another folder, or delete this one")


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
