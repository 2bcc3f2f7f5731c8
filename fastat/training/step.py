"""One step of adversarial training: attack a batch, descend the objective there, average the weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.weak import WeakIdRef

from fastat import graphs
from fastat.data import Batch
from fastat.kernels import ops
from fastat.protocols import Protocol
from fastat.support.distributed import copy_first_, mean_, rank_of, size_of
from fastat.support.keyed import derive_seed
from fastat.support.threat import ThreatModel
from fastat.training.averaging import ema_share, move_average_
from fastat.training.devices import Place
from fastat.training.exchange import Exchange
from fastat.training.optimizers import scale_momenta, step_if, steps_on_device, tensors_of

ATTACK, _NETWORK = 0xA77, 0x2E7  # purposes in the keys of the attack's random numbers and of dropout's


@dataclass
class Replay:
    """Whether steps are replayed from a CUDA graph.

    Attributes:
        wanted: whether they may be, and the attack of a step that is not.
        ready: whether a first step has run, which chose algorithms and made what stays.
        refused: why steps cannot be recorded; empty if nothing speaks against it.
    """

    wanted: bool
    ready: bool = False
    refused: str = ""


@dataclass(frozen=True, eq=False)
class Learner:
    """What a step works with, the same for all steps of a run.

    Attributes:
        model: the network that learns.
        forward: the network as training calls it: behind a front, compiled, or ``model`` itself.
        optimizer: of the parameters of the model that are trained.
        rates: the learning rate of each of its groups, which a schedule's factors are of.
        clip_grad: largest norm of the gradient; 0: no limit.
        protocol: what is attacked by and descended.
        threat: the perturbations that the run is watched under.
        delta: the perturbation that attack "free" carries on, of this process's part of the batch; else None.
        average: the average of the weights, or None.
        ema_decay: decay of the average, which then moves at every step; None where it does not.
        seed: of the run.
        place: where the step runs.
        exchange: how the gradients of a group's processes become one.
        replay: whether steps are replayed from a CUDA graph.
    """

    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    rates: tuple[float, ...]
    clip_grad: float
    protocol: Protocol
    threat: ThreatModel
    delta: Tensor | None
    average: nn.Module | None
    ema_decay: float | None
    seed: int
    place: Place
    exchange: Exchange
    replay: Replay

    @property
    def evaluated(self) -> nn.Module:
        """The network that is measured and kept: the average, where there is one."""
        return self.model if self.average is None else self.average


class Pace(NamedTuple):
    """What a schedule has for a step.

    Attributes:
        rate: factor of the learning rates.
        momentum: factor of the momentum; None where it stays.
        protocol: what is descended.
    """

    rate: float
    momentum: float | None
    protocol: Protocol


@dataclass(frozen=True, eq=False)
class Marks:
    """What the steps of an epoch write down, on the device.

    Attributes:
        losses: float32 [steps of an epoch], the objective of each step; NaN for a skipped one.
        hits: float32 [steps of an epoch], the attacked images each step classified correctly.
    """

    losses: Tensor
    hits: Tensor


def train_step(learner: Learner, batch: Batch, number: int, pace: Pace, marks: Marks, position: int) -> None:
    """Attacks this process's part of the batch and descends the objective of all of it at the result.

    The gradient is the mean of those of the processes. Where it is not finite the step is skipped: weights, momenta
    and statistics stay, and the loss of the step is recorded as NaN. On a GPU nothing is read back, and in one process
    the whole step is replayed from a CUDA graph where it can be. What the network itself draws, for dropout say, is
    keyed by seed, step and process.

    Args:
        number: of the step in the run, from 0; keys the random numbers.
        pace: what its schedule has for it. While it has another protocol than the learner's, steps are not recorded.
        marks, position: where its loss and hits are written.
    """
    devices = [learner.place.device] if learner.place.device.type == "cuda" else []
    tensors = _tensors(learner, batch, number, pace, position)
    if not steps_on_device(learner.optimizer):
        for settings, rate in zip(learner.optimizer.param_groups, learner.rates, strict=True):
            settings["lr"] = rate * pace.rate
    warm = pace.protocol is learner.protocol
    replay = learner.replay
    learner.model.train()
    with torch.random.fork_rng(devices=devices):
        _seed_network(derive_seed(learner.seed, number, _NETWORK, rank_of(learner.place.group)), learner.place.device)
        if replay.ready and warm and not replay.refused:
            try:
                _replay(learner, marks, tensors)
                return
            except graphs.CaptureError as error:
                replay.refused = str(error)
        _step(learner, pace.protocol, marks, tensors, "auto" if replay.wanted and warm else False)
    alone = learner.place.group is None and graphs.can_record(learner.place.device)
    replay.ready = replay.wanted and warm and alone
    if replay.ready and not replay.refused and not steps_on_device(learner.optimizer):
        replay.refused = f"{type(learner.optimizer).__name__} is not fused, so the host must look at every step"


def _seed_network(seed: int, device: torch.device) -> None:
    """What the network draws: torch.manual_seed would take a millisecond, to remember where it was called."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


def _tensors(learner: Learner, batch: Batch, number: int, pace: Pace, position: int) -> dict[str, Tensor]:
    """All that differs from one step to the next."""

    def scalar(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((), value, dtype=dtype, device=learner.place.device)  # made there: a copy would wait

    tensors = {
        "x": batch.x.contiguous(memory_format=learner.place.layout if batch.x.dim() == 4 else torch.contiguous_format),
        "y": batch.y,
        "ids": batch.ids,
        "seed": ops.seed_tensor(derive_seed(learner.seed, number, ATTACK), learner.place.device),
        "position": scalar(position, torch.int64),
    }
    for rate in set(learner.rates) if steps_on_device(learner.optimizer) else ():
        tensors[f"lr {rate}"] = scalar(rate * pace.rate, torch.float32)
    if pace.momentum is not None:
        tensors["momentum"] = scalar(pace.momentum, torch.float32)
    if learner.ema_decay is not None and learner.ema_decay > 0:
        tensors["share"] = scalar(ema_share(learner.ema_decay, number + 1), torch.float32)
    return tensors


def _replay(learner: Learner, marks: Marks, tensors: dict[str, Tensor]) -> None:
    def body(tensors: graphs.Tensors) -> graphs.Made:
        _step(
            learner, learner.protocol, marks, tensors, False
        )  # what is recorded with the step needs no recording of its own
        return (), None

    averages = [] if learner.average is None else [*learner.average.parameters(), *learner.average.buffers()]
    delta = [] if learner.delta is None else [learner.delta]
    written = [*learner.model.parameters(), *tensors_of(learner.optimizer), *averages, *delta, marks.losses, marks.hits]
    key = "step", WeakIdRef(learner), WeakIdRef(marks)
    graphs.run(body, tensors, model=learner.forward, settings=lambda: key, graph=True, written=written)


def _step(learner: Learner, protocol: Protocol, marks: Marks, tensors: graphs.Tensors, graph: graphs.Graph) -> None:
    """The work of a step: all that differs between steps is in the tensors. With graph the attack may be recorded."""
    model, group = learner.model, learner.place.group
    x, y, ids, seed = (tensors[name] for name in ("x", "y", "ids", "seed"))
    for settings, rate in zip(learner.optimizer.param_groups, learner.rates, strict=True):
        if f"lr {rate}" in tensors:
            settings["lr"] = tensors[f"lr {rate}"]
    buffers = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    forward = learner.exchange.around(learner.forward)
    stepping = protocol.stepping(
        forward, x, y, delta=learner.delta, seed=seed, sample_ids=ids, group=group, graph=graph,
        validate=False,  # the dataset was checked when it was made; on a GPU a look at every batch would wait
    )  # fmt: skip
    half = torch.autocast(learner.place.device.type, dtype=torch.bfloat16, enabled=learner.place.bf16)
    with learner.exchange.explained(), half, stepping as found:
        model.zero_grad()
        found.loss.backward()
        hits = (found.logits.detach().argmax(1) == y).sum()
        loss, hits = found.loss.detach().float().clone(), hits.float()
        finite = _descend(learner, loss, hits, tensors.get("momentum"))
    marks.losses.index_copy_(0, tensors["position"].view(1), torch.where(finite, loss, torch.nan).view(1))
    marks.hits.index_copy_(0, tensors["position"].view(1), hits.view(1) * size_of(group))
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(finite, buffer, old))
    if group is not None:  # every process has seen another part of the batch
        statistics = _statistics(model)
        mean_(statistics, group)
        copy_first_([buffer for buffer in buffers if all(buffer is not one for one in statistics)], group)
    if learner.average is not None and learner.ema_decay is not None:
        move_average_(learner.average, model, tensors.get("share", 1.0))


def _descend(learner: Learner, loss: Tensor, hits: Tensor, momentum: Tensor | None) -> Tensor:
    """Averages gradients, loss and hits over the processes, and steps if all gradients are finite: bool, 0-d."""
    optimizer = learner.optimizer
    learner.exchange.average_([loss, hits])
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = [p for p in learner.model.parameters() if p.grad is not None and id(p) in stepped]
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    finite = norm.isfinite()
    if learner.clip_grad > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, learner.clip_grad, norm)
    if momentum is not None:
        scale_momenta(optimizer, torch.where(finite, momentum, 1.0))
    step_if(optimizer, finite)
    return finite


def _statistics(model: nn.Module) -> list[Tensor]:
    """Those that normalizations keep of what they have seen."""
    norms = [module for module in model.modules() if isinstance(module, _NormBase)]
    return [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None]
