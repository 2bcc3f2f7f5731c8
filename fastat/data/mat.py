"""Arrays of numbers in MATLAB's files of version 5, in which version 7 compresses. The format: "MAT-File Format", 2018.

Read here because scipy's reader, which reads all that such files can hold, crashes on some that are broken.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from fastat.support.files.arrays import most_unpacked

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of the numbers in a file."""
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
"""Types of the arrays, which may be stored in smaller ones."""
_HEADER, _COMPLEX, _MOST_DIMENSIONS, _MOST_NAME = 128, 0x0800, 8, 63
_START = 1024
"""Bytes of an array in which its name is."""


def read_mat(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of these names, those of them that the file has.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is no such file, or one of the arrays is something else than real numbers, or would unpack to
            more than :func:`fastat.support.files.arrays.most_unpacked`; the message names the file.
    """
    if not file.is_file() and file.exists():
        raise ValueError(f"{file} is not a regular file")
    content = memoryview(file.read_bytes())
    orders: dict[bytes, Literal["little", "big"]] = {b"\x00\x01IM": "little", b"\x01\x00MI": "big"}
    order = orders.get(bytes(content[_HEADER - 4 : _HEADER]))
    if order is None:
        raise ValueError(f"{file} is not a MATLAB file of version 5 to 7")
    found, left = {}, most_unpacked(file)
    try:
        for kind, element in _elements(content[_HEADER:], order):
            packed = kind == _COMPRESSED
            start = memoryview(zlib.decompressobj().decompress(element, _START + 8))[8:] if packed else element
            if kind not in (_MATRIX, _COMPRESSED) or (name := _name(start, order)) not in names:
                continue
            matrix = _unpacked(element, left)[8:] if packed else element
            left -= len(matrix)
            found[name] = _array(matrix, order)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{file} is not a whole MATLAB file of arrays of numbers: {error}") from error
    return found


def _elements(content: memoryview, order: Literal["little", "big"]) -> Iterator[tuple[int, memoryview]]:
    """The types and contents of the parts, one after the other; ValueError where one reaches beyond the end."""
    at = 0
    while at < len(content):
        kind, size = (int.from_bytes(content[at + i : at + i + 4], order) for i in (0, 4))
        start, step = at + 8, 8
        if kind >> 16:  # up to four bytes stand in the place of the size
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
        else:
            step += size if kind == _COMPRESSED else size + -size % 8
        if len(content) < at + 8 or start + size > len(content) or (start < at + 8 and size > 4):
            raise ValueError("it ends early")
        yield kind, content[start : start + size]
        at += step


def _name(matrix: memoryview, order: Literal["little", "big"]) -> str:
    parts = [part for _, part in islice(_elements(matrix, order), 3)]
    return bytes(parts[2][:_MOST_NAME]).decode("latin1") if len(parts) == 3 else ""


def _unpacked(element: memoryview, most: int) -> memoryview:
    unpacking = zlib.decompressobj()
    content = unpacking.decompress(element, most + 1)
    if len(content) > most:
        raise ValueError(f"its arrays would take more than {most >> 20} MiB")
    if not unpacking.eof:
        raise ValueError("it ends early")
    return memoryview(content)


def _array(matrix: memoryview, order: Literal["little", "big"]) -> np.ndarray:
    parts = list(islice(_elements(matrix, order), 4))
    if len(parts) < 4 or len(parts[0][1]) != 8 or len(parts[1][1]) > 4 * _MOST_DIMENSIONS or len(parts[1][1]) % 4:
        raise ValueError("an array is not one of numbers")
    flags = int.from_bytes(parts[0][1][:4], order)
    sizes, (kind, values) = bytes(parts[1][1]), parts[3]
    shape = [int.from_bytes(sizes[i : i + 4], order) for i in range(0, len(sizes), 4)]
    if flags & 0xFF not in _CLASSES or flags & _COMPLEX or kind not in _STORED:
        raise ValueError("an array is not one of real numbers")
    stored = np.dtype(("<" if order == "little" else ">") + _STORED[kind])
    if math.prod(shape) * stored.itemsize != len(values):
        raise ValueError(f"an array claims to be {shape} of {stored} and has {len(values)} bytes")
    numbers = np.frombuffer(values, stored).astype(_CLASSES[flags & 0xFF], copy=False)
    return numbers.reshape(shape, order="F")
