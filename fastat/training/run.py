"""A training run: a new one of a task, or the one that its folder holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from fastat.data import Batch
from fastat.kernels import describe_environment
from fastat.protocols import Attack
from fastat.support.distributed import Group, copy_first_, rank_of, size_of
from fastat.support.files import load_checkpoint, write_json, write_json_lines
from fastat.training.averaging import average_of
from fastat.training.checkpoint import RunFolder, best_state, restore
from fastat.training.config import ConfigError, OptimizerConfig, RunConfig
from fastat.training.devices import Place, layout_of, placed, uses_bf16
from fastat.training.exchange import exchange_of
from fastat.training.extending import check_not_over, check_same_past, saved_record
from fastat.training.front import Front, check_fixed
from fastat.training.images import Images, batches, images_of
from fastat.training.monitors import best_epoch
from fastat.training.network import CALLER, CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, RESULTS
from fastat.training.saved import check_progress
from fastat.training.schedules import Schedule, check_warmups, warmed
from fastat.training.state import State, new_state
from fastat.training.step import Learner, Pace, Replay
from fastat.training.task import Task


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        learner: what its steps work with.
        images: what it learns from and is watched on.
        batches: this process's part of the batches of some steps, which are counted over the whole run.
        state: where it stands.
        folder: where it is saved.
        front: what comes before the network.
        attacked: whether it trains on attacked images, and can collapse.
        factors: of the learning rates and the momentum.
        schedule: for how long it trains, with which average and warm-ups.
        settings: how it is watched and ended.
        again: whether it starts again, in a folder where it was begun and has no checkpoint.
    """

    learner: Learner
    images: Images
    batches: Callable[[range], Generator[Batch]]
    state: State
    folder: RunFolder
    front: Front
    attacked: bool
    factors: Schedule
    schedule: OptimizerConfig
    settings: RunConfig
    again: bool = False

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.state.stopped) or self.state.epoch == self.schedule.epochs

    def pace(self, step: int) -> Pace:
        """What its schedule has for a step of the whole run, counted from 0."""
        epoch = (step + 0.5) / self.images.steps_per_epoch
        progress = epoch / self.schedule.epochs
        momentum = None if self.factors.momentum is None else self.factors.momentum(progress)
        return Pace(self.factors.rate(progress), momentum, warmed(self.learner.protocol, self.schedule, epoch))


def open_run(task: Task, folder: Path, device: torch.device, group: Group | None = None, graph: bool = True) -> Run:
    """A new run in the folder, or the unfinished one it holds, to be continued.

    Raises:
        ValueError: a setting does not fit the data, the device or the number of processes; the folder holds a run whose
            past would have been another, a checkpoint that does not fit, or a finished run without its checkpoint.
    """
    if not isinstance(graph, bool):
        raise ValueError(f"graph must be True or False, got {graph!r}")
    settings, length = task.record.run, task.record.optimizer
    check_warmups(task.protocol, length)
    if settings.sync_bn and device.type != "cuda":
        raise ConfigError("sync_bn", f"sync_bn must be off on {device.type}: torch has it for CUDA only, got True")
    size = min(length.batch_size, len(task.train_set))
    if size % size_of(group):
        rule = f"a multiple of the number of processes, {size_of(group)}"
        raise ConfigError("batch_size", f"batch_size must be {rule}, got {size}")
    if task.front is not None:
        check_fixed(task.front, task.train_set.image_shape)
    place = Place(device, group, layout_of(settings.channels_last, device), uses_bf16(settings.precision, device))
    images = images_of(task.train_set, task.val_set, size, device, group)
    environment = {**describe_environment(), "processes": str(size_of(group))}
    kept = RunFolder(folder, task.record, images.train_set, task.caller, environment)
    run = _new_run(task, kept, images, place, graph)
    run.state.current.findings.extend({"monitor": name, "step": 0, "text": text} for name, text in task.notes)
    if (folder / CHECKPOINT).exists():
        _continue(run, task)
    else:
        check_not_over(folder, task.record)
        run = dataclasses.replace(run, again=(folder / CONFIG).exists())
    _check_same_place(run)
    if rank_of(group) == 0:
        _write_files(run, task)
    return run


def _new_run(task: Task, folder: RunFolder, images: Images, place: Place, graph: bool) -> Run:
    length, settings, attack = task.record.optimizer, task.record.run, task.protocol.attack
    whole = task.model
    if settings.sync_bn and place.group is not None:
        whole = nn.SyncBatchNorm.convert_sync_batchnorm(whole, place.group)
    model = placed(whole, place.layout, place.device)
    copy_first_([*model.parameters(), *model.buffers()], place.group)
    ahead = Front(None if task.front is None else task.front.to(place.device))
    free = isinstance(attack, Attack) and attack.kind == "free"
    shape = (images.part.stop - images.part.start, *images.train_set.image_shape)
    seen, optimizer = ahead.before(model), task.optimizer(model)
    learner = Learner(
        model=model,
        forward=torch.compile(seen) if settings.compile else seen,
        optimizer=optimizer,
        rates=tuple(float(group["lr"]) for group in optimizer.param_groups),
        clip_grad=length.clip_grad,
        protocol=task.protocol,
        threat=task.record.threat,
        delta=torch.zeros(shape, device=place.device) if free else None,
        average=None if length.average == "none" else average_of(model),
        ema_decay=length.ema_decay if length.average == "ema" else None,
        seed=settings.seed,
        place=place,
        exchange=exchange_of(model, place.group, settings.find_unused_parameters),
        replay=Replay(wanted=graph),
    )
    replays = attack.replays if isinstance(attack, Attack) and free else 1
    drawn = partial(batches, images, task.augmentation, seed=settings.seed, replays=replays, device=place.device)
    return Run(
        learner=learner,
        images=images,
        batches=drawn,
        state=new_state(images.steps_per_epoch, place.device),
        folder=folder,
        front=ahead,
        attacked=not isinstance(attack, Attack) or attack.kind != "none",
        factors=task.schedule,
        schedule=length,
        settings=settings,
    )


def _continue(run: Run, task: Task) -> None:
    """Puts the run where its folder's checkpoint was saved."""
    path, per_epoch = run.folder.path, run.images.steps_per_epoch
    saved = load_checkpoint(path / CHECKPOINT)
    check_progress(saved, task.record, per_epoch, path / CHECKPOINT)
    try:
        restore(run.learner, run.state, run.images.part, saved)
    except ValueError as error:
        raise ValueError(f"{path / CHECKPOINT}: {error}") from error
    done = run.state.epoch + (run.state.current.step > 0)
    check_same_past(path, task.record, task.schedule, done, run.state.step, per_epoch)
    best = best_epoch(run.state.history)
    if best is not None and best + 1 < done and task.record.run.select == "best":
        best_state(path, task.record, best + 1)  # if it is lost, that is said before the rest is trained


def _write_files(run: Run, task: Task) -> None:
    """The files of a run before the first step."""
    folder = run.folder.path
    folder.mkdir(parents=True, exist_ok=True)
    if not run.over or saved_record(folder) != task.record:
        (folder / RESULTS).unlink(missing_ok=True)  # what it has measured is of another length, or on other images
    if task.caller:
        write_json(folder / CALLER, dict(task.caller))
    else:
        (folder / CALLER).unlink(missing_ok=True)
    write_json(folder / CONFIG, dict(task.record.fields))
    if not run.over:
        write_json(folder / ENVIRONMENT, dict(run.folder.environment))
    write_json_lines(folder / METRICS, run.state.history)


def _check_same_place(run: Run) -> None:
    """Raises ValueError if the processes of the group did not find the same checkpoint."""
    group = run.learner.place.group
    if group is None:
        return
    steps = torch.tensor([run.state.step, -run.state.step], device=run.learner.place.device)
    dist.all_reduce(steps, dist.ReduceOp.MAX, group=group)
    if int(steps.sum()) != 0:
        raise ValueError(f"{run.folder.path} must be one folder that all processes share: they are at different steps")
