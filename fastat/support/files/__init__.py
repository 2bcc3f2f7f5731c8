"""Files of a run, each written whole or not at all: a kill at any moment leaves the old one or the new one."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

import torch

from fastat.support.files.checksum import add_checksum, verify_checksum
from fastat.support.files.foreign_json import shortly
from fastat.support.files.pickles import check_pickle, check_taken

_ZIP = b"PK\x03\x04"
"""What torch takes for the start of a zip archive; other files are those of before torch 1.6."""
_PICKLES = 5
"""How many pickles such a file starts with: a mark, a version, a system, the state and the names of its storages."""


@contextmanager
def replacing(path: Path, *, by_many: bool = False) -> Iterator[IO[bytes]]:
    """A stream whose content is at path at the end; it comes there from a temporary file beside it, synced to the disk.
    It can be read back while it is written.

    Args:
        path: the file, which stays as it is if the writing fails.
        by_many: several threads and processes may write it at once. Else one writes to a folder at a time, and what a
            killed one left half done is overwritten.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp" if by_many else f".{path.name}.tmp")
    try:
        with temporary.open("w+b") as stream:
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
    """Saves a dict of tensors and plain values, with a checksum."""
    with replacing(path) as stream:
        torch.save(dict(state), stream)
        add_checksum(stream)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Loads what :func:`save_checkpoint` saved, or torch, to the CPU. Only tensors and plain values are read, never
    code, and they take no more memory than there are bytes in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a checkpoint, or damaged.
    """
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a checkpoint: it is not a regular file")
    with path.open("rb") as stream:
        verify_checksum(stream, path)
        try:
            _check_bounded(stream)
            state = torch.load(stream, map_location="cpu", weights_only=True)
            check_taken(state, path.stat().st_size)
        except Exception as error:  # a broken file makes the unpickler stumble in any way, an IndexError for one
            raise ValueError(
                f"{path} is not a checkpoint that can be read ({in_a_line(error)}): bring back a copy of it, or delete "
                "it"
            ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def _check_bounded(stream: IO[bytes]) -> None:
    """Raises ValueError for what would take more memory than there are bytes in the file: torch writes no such thing,
    but reads it.

    Args:
        stream: of the file, at its start afterwards.
    """
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        raise ValueError("it is empty")
    stream.seek(0)
    if stream.read(len(_ZIP)) == _ZIP:
        archive = zipfile.ZipFile(stream)
        members = archive.infolist()
        if any(one.compress_type != zipfile.ZIP_STORED for one in members) or sum(m.file_size for m in members) > size:
            raise ValueError("it is compressed, or its parts overlap")
        for member in members:
            if member.filename.lower().endswith("data.pkl"):  # torch finds names of any case
                with archive.open(member) as pickled:
                    check_pickle(pickled, size)
    else:
        stream.seek(0)
        for _ in range(_PICKLES):
            check_pickle(stream, size)
    stream.seek(0)


def in_a_line(error: Exception) -> str:
    """An error's message, as others write them, on one line of 300 characters at most."""
    return "".join(c if c.isprintable() else "?" for c in " ".join((str(error) or type(error).__name__).split()))[:300]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Descriptions "field: old -> new" of where the two differ, by the field's name; a missing value is None."""
    return [
        f"{field}: {shortly(old.get(field))} -> {shortly(new.get(field))}"
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
