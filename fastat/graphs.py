"""Attacks, and whole training steps, recorded as CUDA graphs: all their kernels in one launch.

A recording belongs to a module and dies with it. It is used again only for inputs of the same layout, the same settings
of the attack and of torch, and a module that is as it was: the same submodules in the same modes, with the same hooks
and plain attributes, its parameters and buffers where they were in memory. What they hold is read at every replay, so
weights that an optimizer moves in place are seen.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as _modules

from fastat.engine import fresh_casts

Graph = bool | Literal["auto"]
"""True: record, or raise :class:`CaptureError`. "auto": record what comes twice, if it can be. False: never record."""

Tensors = Mapping[str, Tensor]

Body = Callable[[Tensors], tuple[tuple[Tensor, ...], int | None]]
"""What is recorded: from tensors by name to tensors and a number that is the same at every replay."""

MOST_RECORDINGS = 16
"""Of one module; each keeps copies of its inputs and results. The one that was used least recently goes."""


class CaptureError(RuntimeError):
    """An attack cannot be recorded as a CUDA graph; the message says why."""


def check_graph(graph: Graph) -> None:
    """ValueError unless ``graph`` is True, False or "auto"."""
    if not (isinstance(graph, bool) or graph == "auto"):
        raise ValueError(f"graph must be True, False or 'auto', got {graph!r}")


def run(
    body: Body,
    tensors: Tensors,
    *,
    model: Callable[..., Any],
    settings: Hashable,
    graph: Graph,
    written: Sequence[Tensor] = (),
) -> tuple[tuple[Tensor, ...], int | None]:
    """``body(tensors)``, where ``graph`` allows it by replaying a recording of it.

    Args:
        body: computes on ``tensors`` and ``model`` alone, and is otherwise determined by ``settings``: the same
            settings with tensors of the same layout must mean the same work.
        model: what the body calls; it keeps the recordings.
        written: tensors that the body writes, beside the buffers of the model.

    Raises:
        CaptureError: with ``graph=True``, if the body cannot be recorded.
    """
    if graph is False or _inside_another(tensors):
        return body(tensors)
    reason = _obstacle(model, tensors)
    if reason is None:
        assert isinstance(model, nn.Module)
        found = _recordings_of(model).find(settings, model, body, tensors, graph, written)
        if not isinstance(found, str):
            return found
        reason = found
    if graph is True:
        raise CaptureError(reason)
    return body(tensors)


@dataclass
class Recording:
    """What a recorder makes of a body: ``launch`` reads ``inputs`` and writes ``results``."""

    launch: Callable[[], None]
    inputs: dict[str, Tensor]
    results: tuple[Tensor, ...]
    number: int | None


class CudaRecorder:
    """Records on one CUDA device, in memory that all its recordings share: only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        with torch.cuda.device(device):
            self.stream = torch.cuda.Stream()
            self.pool = torch.cuda.graph_pool_handle()
            self.done = torch.cuda.Event()

    def record(self, body: Body, tensors: Tensors) -> Recording:
        """Runs the body twice, for what libraries and compilers do the first time and to find what waits for the
        device, and then records it.

        Raises:
            CaptureError: it cannot be recorded. What the body raises in its first run is raised as it is.
        """
        inputs = {name: t.clone() for name, t in tensors.items()}
        with torch.cuda.device(self.device):
            here = torch.cuda.current_stream()
            self.stream.wait_stream(here)
            with torch.cuda.stream(self.stream):
                with fresh_casts():
                    body(inputs)
                with fresh_casts(), _waiting_raises():
                    body(inputs)
            here.wait_stream(self.stream)
            graph = torch.cuda.CUDAGraph()
            generator = torch.cuda.default_generators[torch.cuda.current_device()]
            drawn = generator.clone_state()
            try:
                with (  # weights cast while recording are cast at every replay
                    fresh_casts(),
                    torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
                ):
                    results, number = body(inputs)
            except Exception as error:
                generator.graphsafe_set_state(drawn)  # the old one still believes that it is being recorded
                raise CaptureError(f"recording failed: {_first_line(error)}") from error
        return Recording(graph.replay, inputs, results, number)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for the last replay, which may have been on another stream, and lets the next one wait for this."""
        self.done.wait()
        try:
            yield
        finally:
            self.done.record()


class Recorder(Protocol):
    """As :class:`CudaRecorder`."""

    def record(self, body: Body, tensors: Tensors) -> Recording: ...
    def turn(self) -> AbstractContextManager[None]: ...


RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}
"""By type of device."""


class _Recordings:
    """Those of one module, by key; a string says why there is none, "" that its inputs came only once so far."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.state: Hashable = None
        self.entries: OrderedDict[Hashable, Recording | str] = OrderedDict()
        self.recorders: dict[torch.device, Recorder] = {}

    def find(
        self,
        settings: Hashable,
        model: nn.Module,
        body: Body,
        tensors: Tensors,
        graph: Graph,
        written: Sequence[Tensor],
    ) -> tuple[tuple[Tensor, ...], int | None] | str:
        """What a replay makes, recorded first if it is time for it; else why there is no recording."""
        with self.lock:
            state = _state(model)
            if state != self.state:  # nothing recorded with another state can be right
                self.entries.clear()
                self.state = state
            device = next(iter(tensors.values())).device
            places = tuple(_comparable(t) for t in written)
            key = (settings, _modes(model), _layout(tensors), places, _switches(device.type))
            entry = self.entries.get(key)
            if entry is None and graph == "auto":
                entry = ""
            elif entry is None or entry == "" or (isinstance(entry, str) and graph is True):
                if device not in self.recorders:
                    self.recorders[device] = RECORDERS[device.type](device)
                entry = _recorded(self.recorders[device], model, state, body, tensors, written)
            self.entries[key] = entry
            self.entries.move_to_end(key)
            while len(self.entries) > MOST_RECORDINGS:
                self.entries.popitem(last=False)
            if isinstance(entry, str):
                return entry
            with self.recorders[device].turn():
                for name, static in entry.inputs.items():
                    static.copy_(tensors[name])
                entry.launch()
                return tuple(t.clone() for t in entry.results), entry.number


_all_recordings: weakref.WeakKeyDictionary[nn.Module, _Recordings] = weakref.WeakKeyDictionary()
_all_lock = threading.Lock()


def _recordings_of(model: nn.Module) -> _Recordings:
    with _all_lock:
        return _all_recordings.setdefault(model, _Recordings())


def _recorded(
    recorder: Recorder,
    model: nn.Module,
    state: tuple[Hashable, ...],
    body: Body,
    tensors: Tensors,
    written: Sequence[Tensor],
) -> Recording | str:
    """A recording of the body, made without a trace in the module and in random numbers, or why there is none."""
    with _left_as_found(model, written, next(iter(tensors.values())).device):
        host = _host_random_state()
        try:
            recording = recorder.record(body, tensors)
        except CaptureError as error:
            return str(error)
        if _host_random_state() != host:
            return "the model draws random numbers on the CPU: every replay would repeat them"
        if changed := _first_difference(model, state, _state(model)):
            return f"a forward pass changes {changed}, which a replay would not"
    return recording


def possible(model: Callable[..., Any], tensors: Tensors) -> bool:
    """Whether nothing that can be seen beforehand keeps an attack on these tensors from being recorded."""
    return not _inside_another(tensors) and _obstacle(model, tensors) is None


def _obstacle(model: Callable[..., Any], tensors: Tensors) -> str | None:
    """Why nothing of this kind can be recorded; None if it may be."""
    devices = {t.device for t in tensors.values()}
    if len(devices) > 1:
        return f"all tensors must be on one device, got {', '.join(sorted(map(str, devices)))}"
    device = devices.pop()
    if device.type not in RECORDERS:
        return f"CUDA tensors are needed, got tensors on {device}"
    if not isinstance(model, nn.Module):
        return "the model must be an nn.Module: what a function depends on cannot be seen"
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            return "SyncBatchNorm in train mode talks to other processes"
        if isinstance(module, nn.DataParallel):
            return "DataParallel copies the module to other devices at every call"
    return None


def _inside_another(tensors: Tensors) -> bool:
    """Whether the caller is recording or compiling: the body then becomes part of that."""
    recording = any(t.is_cuda for t in tensors.values()) and torch.cuda.is_current_stream_capturing()
    return recording or torch.compiler.is_compiling()


def _layout(tensors: Tensors) -> Hashable:
    return tuple((name, t.shape, t.stride(), t.dtype, t.device) for name, t in sorted(tensors.items()))


def _switches(device: str) -> Hashable:
    """What of torch's settings decides which kernels run."""
    backends = torch.backends
    return (
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        torch.are_deterministic_algorithms_enabled(),
        backends.cudnn.enabled,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        backends.cuda.matmul.fp32_precision,
        backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        backends.cuda.flash_sdp_enabled(),
        backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.math_sdp_enabled(),
        backends.cuda.cudnn_sdp_enabled(),
    )


def _state(model: nn.Module) -> tuple[Hashable, ...]:
    """What a recording of the module depends on, beside its modes and the values of its tensors: type and attributes of
    each submodule, as far as a comparison can tell."""
    hooks = tuple(_modules._global_forward_hooks), tuple(_modules._global_forward_pre_hooks)
    return (hooks, *((type(module), *map(_comparable, _attributes(module).values())) for module in model.modules()))


def _attributes(module: nn.Module) -> dict[str, Any]:
    attributes = vars(module).copy()
    attributes.pop("training", None)  # has a place of its own in the key
    return attributes


def _modes(model: nn.Module) -> tuple[bool, ...]:
    return tuple(module.training for module in model.modules())


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device})
_CONTAINERS = frozenset({tuple, list, set, dict, OrderedDict, torch.Size})
_LENGTH = 64  # of a container of anything else than tensors and modules


def _comparable(value: Any) -> Hashable:
    """Equal for two values only if a recorded forward pass that uses them is the same."""
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind in _CONTAINERS:
        if not value:
            return ()
        if len(value) <= _LENGTH or isinstance(next(iter(value)), Tensor | nn.Module):
            entries = value.values() if isinstance(value, dict) else value
            keys = tuple(value) if isinstance(value, dict) else None  # those of hooks are never used twice
            return keys, *map(_comparable, entries)
    if isinstance(value, Tensor):
        return value.data_ptr(), value.shape, value.stride(), value.dtype, value.device
    if isinstance(value, nn.Module):
        return kind.__qualname__  # its attributes have a place of their own
    return id(value)


def _first_difference(model: nn.Module, before: tuple[Any, ...], after: tuple[Any, ...]) -> str:
    """The first attribute that differs, "" if none does."""
    if before == after:
        return ""
    for (name, module), old, new in zip(model.named_modules(), before[1:], after[1:], strict=False):
        for key, one, other in zip(_attributes(module), old[1:], new[1:], strict=False):
            if one != other:
                return f"the attribute {key!r} of {name or 'the model'} ({type(module).__name__})"
        if old != new:
            return f"the attributes of {name or 'the model'} ({type(module).__name__})"
    return "the submodules of the model"


@contextmanager
def _left_as_found(model: nn.Module, written: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Undoes what the body does to tensors, to attributes, and to the state of random number generators."""
    contents = [(tensor, tensor.detach().clone()) for tensor in (*model.buffers(), *written)]
    attributes = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for module, values, owned in attributes:
                vars(module).clear()
                vars(module).update(values)
                module._buffers.clear()
                module._buffers.update(owned)
            with torch.no_grad():
                for tensor, content in contents:
                    tensor.copy_(content)


def _host_random_state() -> Hashable:
    """Of the generators on the CPU that a model may draw from."""
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), str(numpy), bytes(torch.get_rng_state().numpy())


@contextmanager
def _waiting_raises() -> Iterator[None]:
    """CaptureError for code that makes the CPU wait for the device, as a branch on a value does."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        raise CaptureError(f"the model makes the CPU wait for the GPU: {_first_line(error)}") from error
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
