"""Reading the pickled batches of CIFAR-10 and CIFAR-100 without trusting them.

A pickle is a program. This one may only build plain values and arrays of numbers: its instructions are checked before
any runs, every name in it stands for something inert of ours, and an array is made only where its bytes are all there.
So a file runs no code, follows no pointer, and takes memory in proportion to its own size.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "PUT", "BINPUT",
    "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1",
    "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE",
    "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_DICT", "DICT", "SETITEM",
    "SETITEMS",
}  # fmt: skip
"""The instructions that make plain values, and those by which numpy's arrays are saved."""
_TUPLES = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_MOST_TUPLES = 100


def read_batch(file: Path, title: str) -> dict[Any, Any]:
    """The mapping in a pickled batch of the dataset, its strings as bytes and its arrays, read-only, as numpy's.

    Raises:
        ValueError: the file is no pickle of plain values and arrays, or holds no mapping; the message names the file.
        OSError: the file cannot be opened.
    """
    content = file.read_bytes()
    try:
        _check_instructions(content)
        batch = _BatchUnpickler(content).load()
    except _Refused as error:
        raise ValueError(f"{file} should hold only arrays, {error}") from error
    except Exception as error:  # instructions out of order can make unpickling raise anything
        raise ValueError(f"{file} is not a whole pickle: {error!r:.200}") from error
    if not isinstance(batch, dict):
        raise ValueError(f"{file} is not a batch of {title}: it holds a {type(batch).__name__}, not a mapping")
    return {key: value.content if isinstance(value, _Array) else value for key, value in batch.items()}


class _Refused(Exception):
    """The pickle asks for something that no batch needs."""


def _check_instructions(content: bytes) -> None:
    """Refuses what no batch needs, and two things that the instructions of one could be used for.

    The memo makes room for all places before the one that is asked for. And the hash of tuples in tuples in tuples
    overflows C's stack: a genuine batch has four beside those that are the arguments of a call, which checks them.
    """
    tuples, last = 0, ""
    for opcode, argument, _ in pickletools.genops(content):
        name = opcode.name
        if name not in _OPCODES:
            raise _Refused(f"found the instruction {name}")
        if name in _PUTS:
            if argument is not None and argument > len(content):
                raise _Refused(f"found a memo at {argument} in {len(content)} bytes")
            continue
        tuples += last in _TUPLES and name != "REDUCE"
        if tuples > _MOST_TUPLES:
            raise _Refused(f"found more than {_MOST_TUPLES} tuples")
        last = name


class _BatchUnpickler(pickle.Unpickler):
    """Answers the names in a batch by stand-ins: numpy's own would take pointers and sizes from the file."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._left = len(content)
        self._stand_ins = {
            ("numpy.core.multiarray", "_reconstruct"): _Array,  # before numpy 2
            ("numpy._core.multiarray", "_reconstruct"): _Array,
            ("numpy", "ndarray"): _ndarray,
            ("numpy", "dtype"): _Dtype,
            ("_codecs", "encode"): self._encode,
        }

    def find_class(self, module: str, name: str) -> Any:
        found = self._stand_ins.get((module, name))
        if found is None:
            raise _Refused(f"found {module}.{name}".encode("unicode_escape").decode()[:100])
        return found

    def _encode(self, text: str, encoding: str) -> bytes:
        """What Python 3 saves bytes by, in the protocols that have none."""
        self._left -= len(text)  # a text that the file has once could be encoded many times
        if encoding != "latin1" or self._left < 0:
            raise _Refused(f"found a text in {encoding!r}, or more of it than there is in the file")
        return text.encode("latin1")


def _ndarray(*_: object, **__: object) -> None:
    """Stands where a batch names the kind of its arrays; called, it would be an array over any bytes."""
    raise _Refused("found an array made by a call of its own")


class _Array:
    """An array as it is built: by a call without its content, then by its state."""

    content: np.ndarray | None = None

    def __init__(self, kind: object, shape: object, code: object) -> None:
        if kind is not _ndarray or shape != (0,) or code not in (b"b", "b"):
            raise _Refused("found an array of a kind of its own")

    def __setstate__(self, state: Any) -> None:
        """State is (version 1, shape, dtype, whether in Fortran's order, bytes)."""
        version, shape, dtype, by_columns, content = state
        if version != 1 or not isinstance(dtype, _Dtype) or not isinstance(content, bytes):
            raise _Refused("found an array of another version, or without bytes of its own")
        if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
            raise _Refused("found an array without a shape")
        if not all(type(size) is int and 0 <= size <= len(content) for size in shape):
            raise _Refused("found an array of a shape without its bytes")
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


def _text(name: Any) -> str:
    """A short name, which Python 2 saved as bytes."""
    if not isinstance(name, bytes | str) or len(name) > 9:
        raise _Refused("found a type that has no name")
    return name.decode("latin1") if isinstance(name, bytes) else name


_NUMBERS = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"}
_MOST_DIMENSIONS = 8
