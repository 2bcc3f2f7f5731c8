"""Reading the pickled batches of CIFAR-10 and CIFAR-100 without trusting them.

A pickle is a program. Here it may only build plain values and arrays of numbers: it has the instructions for that and
no others, every name in it resolves to a harmless stand-in, keys are strings, and an array is made only where its
bytes are all there. So a file runs no code, follows no pointer, and takes time and memory in proportion to its size (a
hostile one up to a hundred times that).
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def read_batch(file: Path, title: str) -> dict[Any, Any]:
    """The mapping in a pickled batch of the dataset, its strings as bytes and its arrays, read-only, as numpy's.

    Raises:
        ValueError: the file is no pickle of plain values and arrays, or holds no mapping; the message names the file.
        OSError: the file cannot be opened.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not a file")
    if file.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{file} is too large for a batch of {title}: more than {_MOST_BYTES >> 20} MiB")
    content = file.read_bytes()
    try:
        batch = _BatchUnpickler(content).load()
    except _Refused as error:
        raise ValueError(f"{file} should hold only arrays, {error}") from error
    except Exception as error:  # instructions out of order can raise anything, with all of the file in its message
        raise ValueError(f"{file} is not a whole pickle ({type(error).__name__}): unpack its archive again") from None
    if not isinstance(batch, dict):
        raise ValueError(f"{file} is not a batch of {title}: it holds a {type(batch).__name__}, not a mapping")
    return {key: value.content if isinstance(value, _Array) else value for key, value in batch.items()}


class _Refused(Exception):
    """The pickle asks for something that no batch needs."""


_OPCODES = (
    "PROTO FRAME STOP MARK POP POP_MARK GLOBAL STACK_GLOBAL REDUCE BUILD PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET "
    "LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING "
    "SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE "
    "TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS"
)
"""The instructions that make plain values, and those by which numpy's arrays are saved."""


class _Instructions(dict[int, Callable[..., None]]):
    """What to do for the code of each instruction."""

    def __missing__(self, code: int) -> Any:
        raise _Refused(f"found the instruction {bytes([code])!r}")


class _BatchUnpickler(pickle._Unpickler):
    """Python's unpickler written in Python, with fewer instructions.

    The one in C allocates a memo as large as the file asks for, and after an argument that crosses the end of a frame
    it continues inside that argument. Names resolve to stand-ins, since numpy's own take pointers and sizes from the
    file. Keys are short strings, and places in the memo small: hashing tuples of tuples, integers of one hash, and
    comparing long strings can take for ever.
    """

    dispatch = _Instructions(
        {code: pickle._Unpickler.dispatch[code] for name in _OPCODES.split() for code in getattr(pickle, name)}
    )
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    readline: Callable[[], bytes]
    memo: dict[int, Any]

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._stand_ins = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,  # before numpy 2
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _NDARRAY,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): _Encode(len(content)),
            ("__builtin__", "bytes"): _NO_BYTES,
        }

    def find_class(self, module: str, name: str) -> Any:
        found = self._stand_ins.get((module, name))
        if found is None:
            raise _Refused(f"found {module}.{name}".encode("unicode_escape").decode()[:100])
        return found

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._put(items)

    def load_put(self) -> None:
        index = int(self.readline()[:-1])
        if not 0 <= index < 2**32:
            raise _Refused("found a memo index of more than 32 bits")
        self.memo[index] = self.stack[-1]

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._put([key, value])

    def load_setitems(self) -> None:
        self._put(self.pop_mark())

    def _put(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or not all(map(_is_key, items[::2])):
            raise _Refused("found a mapping whose keys are not short strings")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch |= {
        pickle.DICT[0]: load_dict,
        pickle.PUT[0]: load_put,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
    }


class _Name:
    """The stand-in for a function or a type that a batch names: a file may not change it."""

    def __setstate__(self, state: object) -> None:
        raise _Refused("found a state for what has none")


class _Encode(_Name):
    """What Python 3 saves bytes by, in the protocols that have none."""

    def __init__(self, most: int) -> None:
        self.left = most

    def __call__(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise _Refused("found bytes that are not encoded as latin1")
        self.left -= len(text)  # a text that the file has once could be encoded many times
        if self.left < 0:
            raise _Refused("found more bytes than there are in the file")
        return text.encode("latin1")


class _NoBytes(_Name):
    """The same for no bytes at all."""

    def __call__(self) -> bytes:
        return b""


class _Ndarray(_Name):
    """The type of an array. A call of the real one makes an array over any bytes."""

    def __call__(self, *_: object) -> None:
        raise _Refused("found a call of numpy.ndarray")


_NDARRAY, _NO_BYTES = _Ndarray(), _NoBytes()


class _Array:
    """An array as it is built: by a call without its content, then by its state."""

    content: np.ndarray | None = None

    def __init__(self, kind: object, shape: object, code: object) -> None:
        if kind is not _NDARRAY or shape != (0,) or code not in (b"b", "b"):
            raise _Refused("found an array that numpy did not write this way")

    def __setstate__(self, state: Any) -> None:
        """State is (version 1, shape, dtype, whether in Fortran's order, bytes)."""
        version, shape, dtype, by_columns, content = state
        if version != 1 or not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise _Refused("found an array of another version, or without bytes of its own")
        if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS or not all(map(_is_size, shape)):
            raise _Refused("found an array whose shape is not a few sizes")
        kind = np.dtype(dtype.order + dtype.name)
        if math.prod(shape) * kind.itemsize != len(content):
            raise _Refused(f"found {len(content)} bytes for an array {shape} of {kind}")
        self.content = np.frombuffer(content, kind).reshape(shape, order="F" if by_columns else "C")


class _Dtype:
    """The name of a type of numbers, and the order of their bytes."""

    order = "="

    def __init__(self, name: Any, align: Any = 0, copy: Any = 0) -> None:
        self.name = _text(name)
        if self.name not in _NUMBERS or not isinstance(align, int) or not isinstance(copy, int):
            raise _Refused(f"found an array of {self.name!r}")

    def __setstate__(self, state: Any) -> None:
        """State is (version, order of bytes, ...); the rest describes types of several fields."""
        self.order = _text(state[1])
        if self.order not in ("<", ">", "=", "|"):
            raise _Refused(f"found numbers in the byte order {self.order!r}")


def _is_key(key: object) -> bool:
    return isinstance(key, bytes | str) and len(key) <= 100


def _is_size(size: object) -> bool:
    return type(size) is int and 0 <= size < 2**31


def _text(name: Any) -> str:
    """A short name, which Python 2 saved as bytes."""
    if not isinstance(name, bytes | str) or len(name) > 9:
        raise _Refused("found a dtype whose name is no short text")
    return name.decode("latin1") if isinstance(name, bytes) else name


_NUMBERS = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}
_MOST_DIMENSIONS = 8
_MOST_BYTES = 256 << 20  # CIFAR-100's largest file has 155 million
