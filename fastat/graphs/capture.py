"""Records work on a GPU as a CUDA graph."""

from __future__ import annotations

import gc
import random
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastat.graphs.inspection import CaptureError, Survey
from fastat.models import fresh_casts

Tensors = Mapping[str, Tensor]

Made = tuple[tuple[Tensor, ...], int | None]
"""Tensors, and a note that is the same at every replay: an attack's is the number of classes its model has."""

Body = Callable[[Tensors], Made]
"""What is recorded."""


@dataclass
class Recording:
    """What a recorder makes of a body: ``launch`` reads ``inputs`` and writes ``results``."""

    launch: Callable[[], None]
    inputs: dict[str, Tensor]
    results: tuple[Tensor, ...]
    note: int | None


class Recorder(Protocol):
    """As :class:`CudaRecorder`."""

    def record(self, body: Body, tensors: Tensors) -> Recording: ...
    def turn(self) -> AbstractContextManager[None]: ...


_one_at_a_time = threading.RLock()  # another thread's work would be recorded too, or fail


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
            CaptureError: it cannot be recorded, and this recorder is not to be used again.
            torch.OutOfMemoryError: there is not enough memory for that, and the same. What else the body raises in its
                first run is raised as it is.
        """
        gc.collect()  # what earlier backward passes left behind belongs to another stream
        with _one_at_a_time, torch.cuda.device(self.device):
            inputs = {name: t.clone() for name, t in tensors.items()}
            self._rehearse(body, inputs)
            return self._record(body, inputs)

    def _rehearse(self, body: Body, inputs: dict[str, Tensor]) -> None:
        here = torch.cuda.current_stream()
        self.stream.wait_stream(here)
        try:
            with torch.cuda.stream(self.stream):
                with fresh_casts():
                    body(inputs)
                with fresh_casts(), _waiting_raises():
                    body(inputs)
        finally:
            here.wait_stream(self.stream)

    def _record(self, body: Body, inputs: dict[str, Tensor]) -> Recording:
        here = torch.cuda.current_stream()
        graph = torch.cuda.CUDAGraph()
        try:
            with (  # weights that are cast while recording are cast at every replay
                fresh_casts(),
                torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"),
            ):
                results, note = body(inputs)
        except Exception as error:
            torch.cuda.set_stream(here)
            self._end_what_failed()
            cause = error.__context__ if isinstance(error.__context__, Exception) else error
            raise CaptureError(f"recording failed: {first_line(cause)}") from error

        def launch() -> None:
            for t in inputs.values():
                t.record_stream(torch.cuda.current_stream())  # read there, also if the recording is dropped meanwhile
            graph.replay()

        return Recording(launch, inputs, results, note)

    def _end_what_failed(self) -> None:
        """Ends a failed recording where torch does not: until 2.12 the allocator, until 2.13 the random number
        generator believe that it goes on."""
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(self.device.index, self.pool)
            torch._C._cuda_releasePool(self.device.index, self.pool)
        try:
            torch.rand(1, device=self.device)
        except RuntimeError:  # the end of a recording that succeeds tells the generator, which older ones share
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream()):
                torch.zeros(1, device=self.device)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Waits for the last replay, which may have been on another stream, and lets the next one wait for this."""
        with torch.cuda.device(self.device):
            self.done.wait()
            try:
                yield
            finally:
                self.done.record()


@contextmanager
def left_as_found(found: Survey, written: Sequence[Tensor], device: torch.device) -> Iterator[None]:
    """Undoes what work does to a module's buffers and attributes, the lists, dicts, sets and objects among them
    included, to ``written``, and to random number generators."""
    of_module = [t for t in found.tensors if not isinstance(t, torch.nn.Parameter)]
    for t in of_module:
        if t.is_inference() or any(n > 1 and stride == 0 for n, stride in zip(t.shape, t.stride(), strict=True)):
            raise CaptureError(f"a tensor of the model, shape {list(t.shape)}, is expanded or made in inference mode")
    contents = [(t, t.detach().clone()) for t in (*of_module, *written)]
    copies: dict[int, tuple[Any, Any]] = {}
    for holder in (*found.modules, *found.objects):
        _copy_containers(vars(holder), copies)
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
            for container, entries in copies.values():
                if not _same_entries(container, entries):
                    container.clear()
                    (container.update if isinstance(container, dict | set) else container.extend)(entries)
            for t, content in contents:
                t.data.copy_(content)  # not a change that autograd would refuse to go back over


def _copy_containers(value: Any, copies: dict[int, tuple[Any, Any]]) -> None:
    """Adds each container in a value, and a copy of it, to those that are there by their identity."""
    if id(value) in copies or not isinstance(value, list | dict | set | deque | tuple):
        return
    if not isinstance(value, tuple):
        copies[id(value)] = value, dict(value) if isinstance(value, dict) else list(value)
    for entry in value.values() if isinstance(value, dict) else value:
        _copy_containers(entry, copies)


def _same_entries(container: Any, entries: Any) -> bool:
    """Whether a container holds the very objects of a copy, in its order."""
    if len(container) != len(entries):
        return False
    pairs = [(container, entries)]
    if isinstance(container, dict):
        pairs.append((container.values(), entries.values()))
    return all(one is other for these, those in pairs for one, other in zip(these, those, strict=True))


def capturing(t: Tensor) -> bool:
    """Whether work on the tensor is being recorded as a CUDA graph or compiled just now."""
    return (t.is_cuda and torch.cuda.is_current_stream_capturing()) or torch.compiler.is_compiling()


def random_state() -> object:
    """Of the generators on the CPU that a model may draw from; equal if nothing was drawn."""
    numpy = np.random.get_state(legacy=False)["state"]
    return random.getstate(), str(numpy), bytes(torch.get_rng_state().numpy())


@contextmanager
def _waiting_raises() -> Iterator[None]:
    """CaptureError for code that makes the CPU wait for the device, as a branch on a value does.

    For all threads of the process: one that waits meanwhile raises too.
    """
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls the mode a prototype
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        raise CaptureError(f"the model makes the CPU wait for the GPU: {first_line(error)}") from error
    finally:
        torch.cuda.set_sync_debug_mode(mode)


def first_line(error: Exception) -> str:
    """What an exception says, in short."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
