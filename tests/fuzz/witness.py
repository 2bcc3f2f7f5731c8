"""What a call must leave as it found it: tensors that it does not write, networks, random streams, global state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Witness:
    """Looks at the arguments of a call before it, and says afterwards what has changed."""

    def __init__(self, arguments: Mapping[str, Any], written: tuple[str, ...]) -> None:
        self.tensors = list(_tensors(arguments))
        self.written = {id(arguments[name]) for name in written if isinstance(arguments.get(name), Tensor)}
        self.bits = [_bits(t) for _, t in self.tensors]
        self.kinds = [_kind(t) for _, t in self.tensors]
        self.versions = [_version(t) for _, t in self.tensors]
        self.around = {id(t): _around(t) for _, t in self.tensors if id(t) in self.written}
        self.modules = [m for _, value in _flat(arguments) if isinstance(value, nn.Module) for m in value.modules()]
        self.states = [_state(m) for m in self.modules]
        self.world = _world()
        self.stream = torch.get_rng_state()

    def changes(self, refused: bool, draws: bool) -> Iterator[str]:
        """What a call changed that it must not; one that was refused, anything."""
        places = {_place(t) for _, t in self.tensors if id(t) in self.written and not refused}
        for i, (name, t) in enumerate(self.tensors):
            written = id(t) in self.written and not refused
            if not written and _place(t) in places:  # what is around the entries that are written is looked at below
                continue
            if _kind(t) != self.kinds[i]:
                yield f"changed what {name} is"
            if not written and not _same(_bits(t), self.bits[i]):
                yield f"wrote {name}"
            elif not written and name != "a buffer" and _version(t) != self.versions[i]:
                yield f"counted a write of {name}"
            elif written and t.numel() > 0 and _version(t) == self.versions[i] != -1:
                yield f"did not count the write of {name}"
            if id(t) in self.around and not _same(_around(t), self.around[id(t)]):
                yield f"wrote around {name}"
        if [_state(m) for m in self.modules] != self.states:
            yield "changed the model's mode, hooks or parts"
        if _world() != self.world:
            yield "changed global state"
        if not draws and not torch.equal(torch.get_rng_state(), self.stream):
            yield "drew from torch's generator"


def _flat(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Arguments and what tuples, lists and dicts of them hold."""
    for name, value in arguments.items():
        yield name, value
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
        yield from ((name, one) for one in inner)


def _tensors(arguments: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Those that are arguments or in them, and those of networks but the buffers that train mode moves."""
    for name, value in _flat(arguments):
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
            yield name, torch.from_numpy(value)
        elif isinstance(value, nn.Module):
            yield from (("a parameter", p) for p in value.parameters())
            yield from (("a buffer", b) for m in value.modules() if not m.training for b in m.buffers(recurse=False))


def _kind(t: Tensor) -> tuple[Any, ...]:
    strided = t.layout == torch.strided and not t.is_nested
    shape = (t.shape, t.stride(), t.storage_offset()) if strided else ()
    return type(t), t.dtype, shape, t.requires_grad, None if not t.is_leaf or t.grad is None else id(t.grad)


def _version(t: Tensor) -> int:
    return -1 if t.is_inference() else t._version


def _place(t: Tensor) -> int:
    """Its memory, which views share, and with it the count of writes; no two tensors have none in common."""
    plain = t.layout == torch.strided and not t.is_nested and not t.is_quantized and t.device.type == "cpu"
    return t.untyped_storage()._cdata if plain else id(t)


def _bits(t: Tensor) -> Tensor | None:
    """A copy of what it holds."""
    t = t.detach().as_subclass(Tensor)
    if t.layout != torch.strided or t.is_nested or t.is_quantized or t.device.type != "cpu":
        return None
    t = torch.view_as_real(t.resolve_conj()) if t.is_complex() else t.resolve_neg()
    return t.clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8)


def _around(t: Tensor) -> Tensor | None:
    """A copy of its storage, zeros where the tensor itself lies."""
    t = t.detach().as_subclass(Tensor)
    if t.layout != torch.strided or t.is_nested or t.is_quantized or t.device.type != "cpu" or t.is_neg():
        return None
    whole = torch.empty(0, dtype=t.dtype).set_(t.untyped_storage()).clone()
    whole.as_strided(t.shape, t.stride(), t.storage_offset()).fill_(0)
    return whole.view(torch.uint8)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is other or (one is not None and other is not None and torch.equal(one, other))


def _state(module: nn.Module) -> tuple[Any, ...]:
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks
    return module.training, *map(len, hooks), [id(p) for p in module.parameters(recurse=False)], list(module._modules)


def _world() -> tuple[Any, ...]:
    """What belongs to the whole process."""
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")
    settings = torch.get_default_dtype(), torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    return *modes, *settings, random.getstate(), hash(np.random.get_state()[1].tobytes())
