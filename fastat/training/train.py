"""Adversarial training of one's own network on one's own data, resumable to the bit."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import nn

from fastat import data
from fastat.data import AnyDataset, Augmentation, Given, Split, content_digest
from fastat.protocols import Attack, Protocol
from fastat.support import did_you_mean
from fastat.support.distributed import Group
from fastat.support.threat import ThreatModel
from fastat.training.checkpoint import check_same_caller
from fastat.training.checks import check_settings
from fastat.training.config import ConfigError, OptimizerConfig, OptimizerName, RunConfig, ScheduleName
from fastat.training.defaults import ADAM_LR
from fastat.training.devices import choose_device
from fastat.training.extending import check_same_run
from fastat.training.holding import held
from fastat.training.in_words import said
from fastat.training.loop import StepReport
from fastat.training.network import Network
from fastat.training.objects import Normalize, logits_count, network_of, sets_of, with_logits, within
from fastat.training.optimizers import OwnOptimizer, described, optimizer_of, own_optimizer, trained_names
from fastat.training.record import record_of_objects
from fastat.training.running import Watching, trained
from fastat.training.schedules import Factor, own_schedule, schedule_of
from fastat.training.task import Task


def train(
    model: nn.Module | str,
    train_set: Given | Split | str,
    protocol: Protocol,
    *,
    out: str | Path,
    test: Given | None = None,
    val: Given | int | None = None,
    classes: Sequence[str] | None = None,
    normalize: Normalize = None,
    augment: Literal["none", "crop", "crop-flip"] = "none",
    cutout: int = 0,
    in_memory: bool | None = None,
    workers: int | None = None,
    epochs: int = 20,
    batch_size: int = 128,
    optimizer: OptimizerName | OwnOptimizer = "sgd",
    lr: float | None = None,
    schedule: ScheduleName | Factor = "cyclic",
    threat: ThreatModel | None = None,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    group: Group | None = None,
    quiet: bool = False,
    graph: bool = True,
    checkpoint_every: float = 300.0,
    on_epoch: Callable[[dict[str, Any]], object] | None = None,
    on_step: Callable[[StepReport], object] | None = None,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    measure_every: int = 1,
    **options: Any,
) -> Network:
    """Trains a network adversarially and keeps the run in a folder::

        network = fastat.train(model, train_set, fastat.protocol("trades", eps=8 / 255), test=test_set, out="runs/mine")
        network.report()

    min over w of E [ max over |d| <= eps of CE(w, x + d, y) ] (Madry et al. 2018, equation 2.1), or what else the
    protocol says: each step attacks a batch and descends the protocol's objective there.

    If the folder holds an unfinished run of the same settings and data, that run is continued. On a CPU, in one
    process, it then ends with the same bits as a run that was never stopped, whenever the old one was killed. A
    finished run is not trained again: the module gets its weights. A longer one goes on where the schedule allows it:
    more ``epochs`` under a constant schedule, or under multistep with milestones at the same steps.

    The folder holds config.json, environment.json, metrics.jsonl (a line per epoch), checkpoint.pt, and best.pt, the
    network of the epoch with the best PGD-20 accuracy on the validation samples. While this runs no other process can
    train there. Files of it that are lost are made again; best.pt of an earlier epoch cannot be. Without checkpoint.pt
    an unfinished run starts again; a finished one is refused while its best.pt is there.

    Args:
        model: a classifier from inputs ``[B, ...]`` to logits ``[B, C]`` (or to a mapping or an object with
            ``logits``), trained in place: at the end it holds the weights that are returned, in eval mode, on the
            device. Parameters that take no gradient stay as they are. Or a name of :func:`fastat.models.build`.
        train_set: a map-style Dataset of torch of pairs (x, label), with transforms of its own; a pair (x, y) of
            tensors or arrays, x ``[N, ...]`` of any shape, floating-point or uint8 of pixels from 0 to 255, y integers;
            a :class:`fastat.data.Split` or a name of :func:`fastat.data.load`, whose test half is then ``test``. Inputs
            are to be in the bounds of the attack, so not normalized. Small Datasets whose transforms draw nothing are
            read into memory, others by worker processes in every epoch; what a sample's transforms draw from torch's,
            numpy's and Python's global generators depends on the seed, the epoch and the sample alone.
        protocol: what is descended, :func:`fastat.protocol`.
        out: the run's folder; made if missing. Processes of a group share it, on several machines too.
        test: what :meth:`Network.report` measures; not looked at in the training.
        val: what the run is watched on and its best epoch chosen by: a number of samples of ``train_set`` to set apart,
            which keep its random transforms, or data, of which 10,000 at most are taken; None for a tenth of
            ``train_set``, 1000 at most; 0 for none. Of fewer than 50 no monitor can tell learning from chance.
        classes: their names; by default those the Dataset has as ``classes``, else numbers.
        normalize: what inputs are normalized by before the network: a pair (mean, std), numbers or one per channel;
            "data", the statistics of ``train_set``; None for nothing, or for "data" where the model is a name.
        augment, cutout: see :class:`fastat.data.DataConfig`; for images, in addition to transforms of the Dataset.
        in_memory, workers: see :func:`fastat.data.as_dataset`.
        epochs, batch_size, lr: see :class:`OptimizerConfig`; of all processes together. lr is by default 0.1, of adam
            and adamw 0.001, of an optimizer of one's own what that has.
        optimizer: "sgd", "adam", "adamw", or a function from the list of parameters to a torch.optim.Optimizer
            (``functools.partial(torch.optim.RAdam, lr=1e-3)``), which is called twice, once to write down what it
            makes. Each step of one that is not fused waits for a GPU.
        schedule: a name of :class:`OptimizerConfig`, or a function from the fraction of the run that is over, in
            [0, 1], to a factor of the learning rates.
        threat: perturbations that the run is watched and measured under; by default those of the protocol's attack.
            Needed where that is a function.
        data_root: see :func:`fastat.data.load`.
        device: "cpu", "cuda", "cuda:1"; by default the GPU if there is one.
        group: processes of torch.distributed that train together: each takes its part of every batch, with the random
            numbers of its samples, and the first one writes. All call this with the same arguments; the weights are at
            first those of the first one. Gradients go through DistributedDataParallel from the second step on, with
            every protocol; those of a network with parameters that no gradient reaches in the first step are averaged
            after the backward pass, and with ``find_unused_parameters`` those of any.
        quiet: show nothing while training.
        graph: on a GPU, record each step, or with a group the attack, as a CUDA graph, and the attacks of the
            validation and the monitors; what cannot be recorded runs as it is. False records nothing. The training is
            the same; accuracies on the validation samples are, up to rounding.
        checkpoint_every: seconds between two checkpoints within an epoch; 0 saves after every step.
        on_epoch: called after every epoch with its line of metrics.jsonl; by the first process, as the next three.
        on_step: called after every step with a :class:`StepReport`.
        measure: called with the network after every epoch; the numbers it returns are kept in the epoch's line of
            metrics.jsonl, under "measured". It must leave the network as it found it.
        measure_every: epochs between two of these calls; the last epoch is always measured.
        options: the other fields of :class:`OptimizerConfig` and :class:`RunConfig`: momentum, weight_decay, average,
            eps_warmup, seed, precision, compile, select, patience, on_collapse and more.

    Returns:
        The network that ``select`` chooses, with the run's history.

    Raises:
        TypeError: an option that there is not, or an argument of another type.
        ValueError: a value out of its range, data that do not fit the model, the bounds or the number of processes, or
            a folder that holds a run of other settings or data, that another process trains in, or whose best.pt is
            lost; the message names the argument or the file.
        FloatingPointError: many steps of an epoch were skipped because the gradient was infinite or NaN.
        KeyboardInterrupt: on Ctrl-C, and as :class:`fastat.training.Terminated` on SIGTERM, after the step under way
            and a checkpoint; with a group at once, without one.
    """
    if not isinstance(protocol, Protocol):
        raise TypeError(f"protocol must be one, as fastat.protocol('pgd-at', eps=8 / 255), got {protocol!r}")
    watching = Watching(quiet, checkpoint_every, False, measure, measure_every, on_epoch, on_step)
    folder, chosen = Path(out), choose_device(device)
    _check_processes(group)
    length, settings = _settings(optimizer, schedule, lr, {"epochs": epochs, "batch_size": batch_size, **options})
    watched = _threat(protocol, threat)
    sets = sets_of(train_set, val, test, classes, data_root, in_memory=in_memory, workers=workers)
    if sets.val is None and settings.patience is not None:
        raise ConfigError("patience", f"patience must be left out without validation samples, got {settings.patience}")
    sets = within(sets, watched.bounds)
    if isinstance(protocol.attack, Attack) and protocol.attack.bounds != watched.bounds:
        sets = within(sets, protocol.attack.bounds)
    _check_augmentation(augment, cutout, sets.train)
    network = network_of(model, sets.whole, normalize, settings.seed)
    sets = with_logits(sets, logits_count(network, sets.train))
    named = isinstance(model, str)
    given: dict[str, Any] = {
        "model": model if isinstance(model, str) else type(model).__name__,
        "named": named,
        "network": content_digest(re.sub(r" at 0x[0-9a-f]+", "", str(network)) + repr(trained_names(network))),
        "data": sets.train.title,
        "val_size": 0 if sets.val is None else len(sets.val),
        "normalize": said("data" if named and normalize is None else normalize),
        "augment": augment,
        "cutout": cutout,
    }
    factor = schedule_of(length) if isinstance(schedule, str) else own_schedule(schedule)
    if not isinstance(optimizer, str):
        given |= {"optimizer": described(own_optimizer(optimizer, network)), "lr": None}
    if not isinstance(schedule, str):
        factors = torch.tensor([factor.rate(moment / 100) for moment in range(101)], dtype=torch.float64)
        given["schedule"] = f"{said(schedule)} {content_digest('', factors)}"
    record = record_of_objects(protocol, watched, length, settings, given)
    task = Task(
        model=network,
        protocol=protocol,
        train_set=sets.train,
        val_set=sets.val,
        augmentation=Augmentation(augment, cutout, settings.seed),
        optimizer=partial(optimizer_of, length) if isinstance(optimizer, str) else partial(own_optimizer, optimizer),
        schedule=factor,
        record=record,
        caller=sets.given,
        notes=sets.notes,
        test=sets.test,
    )
    with held(folder, record, group, chosen, quiet):
        check_same_run(folder, record)
        check_same_caller(folder, sets.given)
        found, learner = trained(task, folder, chosen, group, graph, watching)
    if found.model is not learner:  # an average
        learner.load_state_dict(found.model.state_dict())
    learner.zero_grad()
    return dataclasses.replace(found, model=learner.eval())


_OF_PROTOCOLS = ("eps", "norm", "bounds", "steps", "step_size", "attack", "loss", "objective", "awp", "grad_align")
_OF_SGD = ("momentum", "peak_momentum", "nesterov", "weight_decay", "exempt_norm_and_bias")
_OF_NAMED = ("peak", "milestones", "peak_momentum")


def _settings(
    optimizer: OptimizerName | OwnOptimizer, schedule: ScheduleName | Factor, lr: float | None, options: dict[str, Any]
) -> tuple[OptimizerConfig, RunConfig]:
    """The settings of a run; those that functions stand for have their defaults."""
    parts: dict[type, dict[str, Any]] = {OptimizerConfig: {}, RunConfig: {}}
    fields = {field.name: part for part in parts for field in dataclasses.fields(part)}
    for name, value in options.items():
        if name not in fields:
            known = sorted(set(fields) - {"optimizer", "schedule", "lr"})
            if name in _OF_PROTOCOLS:
                raise TypeError(f"{name} is of the protocol: pass it to fastat.protocol(...)")
            hint = did_you_mean(name, known)
            raise TypeError(f"train has no option {name!r}, its options are {', '.join(known)}{hint}")
        parts[fields[name]][name] = tuple(value) if isinstance(value, list) else value
    for function, what, names in ((optimizer, "optimizer", _OF_SGD), (schedule, "schedule", _OF_NAMED)):
        if isinstance(function, str):
            parts[OptimizerConfig][what] = function
        elif isinstance(function, torch.optim.Optimizer) or not callable(function):
            raise TypeError(f"{what} must be a name or a function, see fastat.train, got {type(function).__name__}")
        elif unused := sorted(set(names) & set(options)):
            raise TypeError(f"{unused[0]} is not used with a function as {what}: leave it out")
    if not isinstance(optimizer, str) and lr is not None:
        raise TypeError(f"lr is set by the function that makes the optimizer: leave it out, got {lr}")
    if lr is not None or optimizer in ("adam", "adamw"):
        parts[OptimizerConfig]["lr"] = ADAM_LR if lr is None else lr
    length, settings = OptimizerConfig(**parts[OptimizerConfig]), RunConfig(**parts[RunConfig])
    check_settings(length, settings)
    return length, settings


def _threat(protocol: Protocol, given: ThreatModel | None) -> ThreatModel:
    if given is not None and not isinstance(given, ThreatModel):
        raise TypeError(f"threat must be a fastat.ThreatModel('linf', eps=8 / 255), got {given!r}")
    if given is not None:
        return given
    if isinstance(protocol.attack, Attack):
        return ThreatModel(protocol.attack.norm, protocol.attack.eps, protocol.attack.bounds)
    raise ValueError(
        "threat must say which perturbations the run is watched under where the attack is a function: "
        "fastat.ThreatModel('linf', eps=8 / 255)"
    )


def _check_augmentation(kind: str, cutout: int, samples: AnyDataset) -> None:
    data.check_augment(kind)
    if (kind != "none" or cutout) and len(samples.image_shape) != 3:
        shape = list(samples.image_shape)
        raise ConfigError("augment", f"augment and cutout are for images [C, H, W], got samples {shape}")


def _check_processes(group: Group | None) -> None:
    if group is not None and not isinstance(group, Group):
        raise TypeError(f"group must be a process group of torch.distributed, got {group!r}")
    if group is None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(
            f"group must name the processes that train together: {dist.get_world_size()} have joined "
            "(group=torch.distributed.group.WORLD)"
        )
