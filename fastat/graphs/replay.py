"""Attacks, and whole training steps, replayed from CUDA graphs: all their kernels in one launch.

A recording belongs to a module and dies with it. It is used again only for inputs of the same layout, the same settings
of the attack and of torch, and a module that is as it was (``Survey`` says what is compared). What
the module's tensors hold is read at every replay, so weights that an optimizer moves in place are seen. A function as
loss is told by its identity: pass the same object at every call, for a new lambda is recorded anew.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastat.graphs.capture import (
    Body,
    CudaRecorder,
    Made,
    Recorder,
    Recording,
    Tensors,
    capturing,
    left_as_found,
    random_state,
)
from fastat.graphs.inspection import CaptureError, Survey, first_difference, place, survey
from fastat.models import innermost, uncompiled

Graph = bool | Literal["auto"]
"""True: record, or raise :class:`CaptureError`. "auto": record what comes twice, if it can be. False: never record."""

MOST_RECORDINGS = 32
"""Of one module; each keeps copies of its inputs and results. The one that was used least recently goes."""

RECORDERS: dict[str, Callable[[torch.device], Recorder]] = {"cuda": CudaRecorder}
"""By type of device."""


def check_graph(graph: Graph) -> None:
    """ValueError unless ``graph`` is True, False or "auto"."""
    if not (isinstance(graph, bool) or graph == "auto"):
        raise ValueError(f"graph must be True, False or 'auto', got {graph!r}")


def run(
    body: Body,
    tensors: Tensors,
    *,
    model: Callable[..., Any],
    settings: Callable[[], Hashable],
    graph: Graph,
    written: Sequence[Tensor] = (),
    before: Callable[[int | None], None] = lambda note: None,
) -> Made:
    """``body(tensors)``, where ``graph`` allows it by replaying a recording of it.

    Args:
        body: computes on ``tensors`` and ``model`` alone, and is otherwise determined by ``settings``: the same
            settings with tensors of the same layout must mean the same work. They are asked for only where a recording
            can be thought of, and may raise CaptureError.
        model: what the body calls; it keeps the recordings.
        written: tensors that the body writes, beside those of the model that are no parameters.
        before: called before any work on the tensors, perhaps twice, with the note of the recording if there is one;
            the module has then been inspected, so that a wait for the device hides that.

    Raises:
        CaptureError: with ``graph=True``, if the body cannot be recorded.
    """
    if graph is False or _inside_another(tensors):
        before(None)
        return body(tensors)
    try:
        module, device = _checked(model, tensors)
        recordings, at_once = _recordings_of(module), graph is True
        found = recordings.replay(module, device, body, tensors, settings(), written, before, at_once)
    except CaptureError:
        if graph is True:
            raise
        found = None
    if found is not None:
        return found
    before(None)
    return body(tensors)


def can_record(device: torch.device) -> bool:
    """Whether there is a recorder for work on the device."""
    return device.type in RECORDERS


def possible(model: Callable[..., Any], tensors: Tensors) -> bool:
    """Whether recordings of work on these tensors can be thought of."""
    try:
        _checked(model, tensors)
    except CaptureError:
        return False
    return not _inside_another(tensors)


def forget(model: nn.Module) -> None:
    """Drops the recordings of a module or of the one inside its wrapper, and their memory."""
    with _all_lock:
        for kept_by in (model, uncompiled(model), innermost(model)):
            _all_recordings.pop(kept_by, None)


class _Recordings:
    """Those of one module."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.state: object = None
        self.entries: OrderedDict[Hashable, Recording] = OrderedDict()
        self.unrecorded: dict[Hashable, str] = {}  # why not, or "" for what came only once so far
        self.recorders: dict[torch.device, Recorder] = {}

    def replay(
        self,
        model: nn.Module,
        device: torch.device,
        body: Body,
        tensors: Tensors,
        settings: Hashable,
        written: Sequence[Tensor],
        before: Callable[[int | None], None],
        at_once: bool,
    ) -> Made | None:
        """What a replay makes, recorded first if need be; None for what came only once so far, unless ``at_once``."""
        with self.lock:
            now = survey(model)
            if now.state != self.state:  # nothing recorded with another state can be right
                self._clear()
                self.state = now.state
            places = tuple(place(t) for t in written)
            key = (settings, now.modes, _layout(tensors), places, _switches(device.type))
            entry = self.entries.get(key)
            if entry is None and not at_once:
                seen = self.unrecorded.get(key)
                if seen is None:
                    self._note(key, "")
                    return None
                if seen:
                    raise CaptureError(seen)
            before(entry.note if entry else None)
            if entry is None:
                try:
                    entry = self._record(model, now, device, body, tensors, written)
                except CaptureError as error:
                    self._note(key, str(error))
                    raise
            self.entries[key] = entry
            self.entries.move_to_end(key)
            while len(self.entries) > MOST_RECORDINGS:
                self.entries.popitem(last=False)
            with self.recorders[device].turn():
                for name, static in entry.inputs.items():
                    static.copy_(tensors[name])
                entry.launch()
                return tuple(t.clone() for t in entry.results), entry.note

    def _record(
        self,
        model: nn.Module,
        now: Survey,
        device: torch.device,
        body: Body,
        tensors: Tensors,
        written: Sequence[Tensor],
    ) -> Recording:
        """A recording of the body, made without a trace in the module and in random numbers."""
        _check_modules(now)
        if device not in self.recorders:
            self.recorders[device] = RECORDERS[device.type](device)
        try:
            with _memory_needed(), left_as_found(now, written, device):
                drawn = random_state()
                recording = self.recorders[device].record(body, tensors)
                if random_state() != drawn:
                    raise CaptureError("the model draws random numbers on the CPU: every replay would repeat them")
                if changed := first_difference(model, now, survey(model)):
                    raise CaptureError(f"a forward pass changes {changed}, which a replay would not")
        except CaptureError:
            # A recorder with a recording that is not kept is not used again, and all others share its memory.
            self.entries.clear()
            self.recorders.clear()
            raise
        return recording

    def _note(self, key: Hashable, reason: str) -> None:
        if len(self.unrecorded) >= 1000:
            self.unrecorded.clear()
        self.unrecorded[key] = reason

    def _clear(self) -> None:
        self.entries.clear()
        self.unrecorded.clear()
        self.recorders.clear()  # and their memory pools


_all_recordings: weakref.WeakKeyDictionary[nn.Module, _Recordings] = weakref.WeakKeyDictionary()
_all_lock = threading.Lock()


def _recordings_of(model: nn.Module) -> _Recordings:
    with _all_lock:
        return _all_recordings.setdefault(model, _Recordings())


def _checked(model: Callable[..., Any], tensors: Tensors) -> tuple[nn.Module, torch.device]:
    """The model and the one device of the tensors; CaptureError if nothing can be recorded of that kind."""
    if not isinstance(model, nn.Module):
        kind = type(model).__name__
        raise CaptureError(f"the model must be an nn.Module, got a {kind}: what that depends on cannot be seen")
    devices = {t.device for t in tensors.values()}
    if len(devices) > 1:
        raise CaptureError(f"all tensors must be on one device, got {', '.join(sorted(map(str, devices)))}")
    device = devices.pop()
    if device.type not in RECORDERS:
        raise CaptureError(f"CUDA tensors are needed, got tensors on {device}")
    return model, device


@contextmanager
def _memory_needed() -> Iterator[None]:
    """CaptureError where memory is short: what is copied to record may still be done without."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CaptureError("there is not enough GPU memory to record") from error


def _check_modules(found: Survey) -> None:
    for module in found.modules:
        if isinstance(module, nn.SyncBatchNorm) and module.training:
            raise CaptureError("SyncBatchNorm in train mode talks to other processes")
        if isinstance(module, nn.DataParallel):
            raise CaptureError("DataParallel copies the module to other devices at every call")


def _inside_another(tensors: Tensors) -> bool:
    """Whether the caller is recording or compiling: the body then becomes part of that."""
    return any(capturing(t) for t in tensors.values())


def _layout(tensors: Tensors) -> Hashable:
    return tuple((name, t.shape, t.stride(), t.dtype, t.device) for name, t in sorted(tensors.items()))


def _switches(device: str) -> Hashable:
    """What of torch's settings decides which kernels run."""
    backends = torch.backends
    return (
        torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device),
        torch.get_default_dtype(),
        torch.are_deterministic_algorithms_enabled(),
        backends.cudnn.enabled,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        backends.cuda.matmul.fp32_precision,
        backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
        backends.cuda.matmul.allow_bf16_reduced_precision_reduction,
        backends.cuda.matmul.allow_fp16_accumulation,
        backends.cuda.preferred_blas_library(),
        backends.cuda.flash_sdp_enabled(),
        backends.cuda.mem_efficient_sdp_enabled(),
        backends.cuda.math_sdp_enabled(),
        backends.cuda.cudnn_sdp_enabled(),
    )
