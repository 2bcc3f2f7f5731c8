"""What the pickle in a checkpoint calls, found before torch does it.

torch's unpickler runs no code of a file, but a call of a few bytes may take any memory: a tensor of a size, bytes
encoded again and again, the same large list copied by each of many calls.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import IO, Any

import torch

_STORAGE, _ENCODE = "torch.storage.UntypedStorage", "_codecs.encode"
_CALLED = (
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch._utils._rebuild_nested_tensor",
    "torch._utils._rebuild_meta_tensor_no_storage",
    "torch.serialization._get_layout",
    "torch.Size",
    "torch.device",
    "collections.OrderedDict",
    "collections.Counter",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "complex")),
    _ENCODE,  # for bytes, as the text of the same letters
)
"""What torch.save has a file call, as far as that takes no more memory than what it is called with."""
_KINDS = {name for name in vars(torch) if isinstance(getattr(torch, name), torch.dtype | torch.qscheme)}
_STORAGES = {
    name for name in vars(torch) if name.endswith("Storage") and name not in ("TypedStorage", "UntypedStorage")
}
_NAMED = {
    *_CALLED,
    _STORAGE,
    *(f"torch.{name}" for name in _KINDS | _STORAGES),
    *(f"torch.cuda.{name}" for name in _STORAGES),
}
_TUPLES = MappingProxyType({"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3})
_ADDING = MappingProxyType({"APPEND": 1, "SETITEM": 2})


@dataclass
class _Value:
    """What stands on the stack: the letters or items it has, a text or the name of a function, the items of a tuple."""

    size: int = 0
    text: str = ""
    items: tuple[_Value, ...] = ()


def check_pickle(stream: IO[bytes], most: int) -> None:
    """Raises ValueError for a pickle that calls what torch.save does not, or copies more than so many items: torch.save
    writes what a call takes for that call alone.

    Args:
        stream: where the pickle starts; where it ends afterwards.
        most: items, the number of bytes of the file.
    """
    try:
        copied = _copied(stream)
    except (IndexError, KeyError) as error:
        raise ValueError("its pickle is broken") from error
    if copied > most:
        raise ValueError("it copies the same thing many times, which may take any memory")


def _copied(stream: IO[bytes]) -> int:
    """How many items the calls of a pickle copy."""
    stack: list[_Value] = []
    below: list[list[_Value]] = []
    memo: dict[Any, _Value] = {}
    allowed = _NAMED | _allowed_by_caller()
    copied = 0
    for code, argument, _ in pickletools.genops(stream):
        match code.name:
            case "GLOBAL":
                name = str(argument).replace(" ", ".")
                if name not in allowed:
                    raise ValueError(f"it asks for {name}, which no tensors and plain values need")
                stack.append(_Value(text=name))
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                items, stack = tuple(stack), below.pop()
                stack.append(_Value(len(items), items=items))
            case "APPENDS" | "SETITEMS":
                added, stack = len(stack), below.pop()
                stack[-1].size += added
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = tuple(reversed([stack.pop() for _ in range(_TUPLES[code.name])]))
                stack.append(_Value(len(items), items=items))
            case "APPEND" | "SETITEM":
                for _ in range(_ADDING[code.name]):
                    stack.pop()
                stack[-1].size += 1
            case "REDUCE" | "NEWOBJ" | "BUILD":
                given, function = stack.pop(), stack.pop()
                size = given.size + sum(item.size for item in given.items)
                copied += size
                if code.name != "BUILD":
                    _check_call(function.text, given.items)
                    function = _Value(size)
                stack.append(function)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack[-1] = _Value()
            case "PROTO" | "STOP":
                pass
            case _:
                text = argument if isinstance(argument, str) else ""
                stack.append(_Value(len(text), text))
    return copied


def _check_call(name: str, given: tuple[_Value, ...]) -> None:
    if name == _STORAGE:
        raise ValueError(f"it calls {name}, which may take any memory")
    if name == _ENCODE and [value.text for value in given[1:]] != ["latin1"]:
        raise ValueError(f"it calls {name} otherwise than for bytes, which may take any memory")


def _allowed_by_caller() -> set[str]:
    """The names that the caller has told torch to trust."""
    given = torch.serialization.get_safe_globals()
    return {one[1] if isinstance(one, tuple) else f"{one.__module__}.{one.__qualname__}" for one in given}


def check_taken(value: Any, most: int) -> None:
    """Raises ValueError if the tensors in a value have more than so many bytes: in files of before torch 1.6 they may
    claim what is not there, which is taken from the system as soon as it is read."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    left = [value]
    while left:
        one = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, Mapping):
            left.extend(one.values())
        elif isinstance(one, list | tuple):
            left.extend(one)
        elif isinstance(one, torch.Tensor) and one.layout == torch.strided and one.is_cpu and not one.is_nested:
            storage = one.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
    if sum(storages.values()) > most:
        raise ValueError("its tensors claim more than the file has")
