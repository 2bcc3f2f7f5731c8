"""Files of named arrays, numpy's npz: written whole with a checksum, read without trusting what they claim."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from fastat.support.files import in_a_line, replacing
from fastat.support.files.checksum import add_checksum, verify_checksum

_ALWAYS, _TIMES = 1 << 30, 100
_PLAIN = "biufcSU"
"""Kinds of numbers and texts."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def most_unpacked(file: Path) -> int:
    """How many bytes a compressed file may unpack to: 1 GiB, or a hundred times its own size if that is more."""
    return max(_ALWAYS, _TIMES * file.stat().st_size)


def save_arrays(path: Path, arrays: Mapping[str, Any], *, compressed: bool = False, by_many: bool = False) -> None:
    """Writes an npz file with a checksum, whole or not at all; the same arrays give the same bytes.

    Args:
        path: the file.
        arrays: no objects.
        compressed: by zlib.
        by_many: see :func:`fastat.support.files.replacing`.
    """
    save = np.savez_compressed if compressed else np.savez
    with replacing(path, by_many=by_many) as stream:
        save(stream, allow_pickle=False, **arrays)
        add_checksum(stream)


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of these names in an npz file, those of them that it has. Nothing in it is run.

    Memory is taken for what is there: an array that claims more than its part of the file holds is refused, and so is a
    file whose arrays would unpack to more than :func:`most_unpacked`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no npz file, damaged, or holds something else than plain arrays under these names.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    most = most_unpacked(path)
    with path.open("rb") as stream:
        verify_checksum(stream, path)
        try:
            with zipfile.ZipFile(stream) as archive:
                there = {name: f"{name}.npy" for name in names if f"{name}.npy" in archive.NameToInfo}
                if sum(archive.getinfo(member).file_size for member in there.values()) > most:
                    raise ValueError(f"its arrays would take more than {most >> 20} MiB")
                return {name: _read_array(archive, member) for name, member in there.items()}
        except Exception as error:  # a broken file may fail as a zip, as an array or as text
            raise ValueError(f"{path} is not an npz file of plain arrays: {in_a_line(error)}") from error


def _read_array(archive: zipfile.ZipFile, member: str) -> np.ndarray[Any, Any]:
    with archive.open(member) as stream:
        shape, dtype = _header(stream)
        left = archive.getinfo(member).file_size - stream.tell()
    size = math.prod(shape) * dtype.itemsize
    if dtype.itemsize == 0 or size != left:
        raise ValueError(f"{member} claims {list(shape)} of {dtype}, {size} bytes, and has {left}")
    with archive.open(member) as stream:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
        stream.read()  # to the end, where its sum is checked
    if dtype.kind == "U":  # numpy makes texts of any numbers, on which Python then fails inside
        codes = np.frombuffer(array.tobytes(), np.dtype("u4").newbyteorder(dtype.byteorder))
        if bool(((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any()):
            raise ValueError(f"{member} holds what is no text")
    return array


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"an array has the format {version}")
    shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject or dtype.kind not in _PLAIN:
        raise ValueError("an array holds objects" if dtype.hasobject else f"an array is of {dtype}")
    return shape, dtype
