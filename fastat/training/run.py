"""A training run is made from its configuration, or found again in its folder."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fastat import data, models
from fastat.data import Augmentation, Batch, Split
from fastat.kernels import describe_environment
from fastat.protocols import protocol_of
from fastat.support.distributed import Group, rank_of, size_of
from fastat.support.files import load_checkpoint, write_json, write_json_lines
from fastat.support.keyed import derive_seed
from fastat.training.averaging import average_of
from fastat.training.checkpoint import (
    RunFolder,
    check_same_caller,
    check_same_config,
    of_the_caller,
    restore,
    save_best,
)
from fastat.training.checks import check_config
from fastat.training.config import ConfigError, OptimizerConfig, RunConfig, TrainConfig, as_fields
from fastat.training.devices import Place, layout_of, placed, uses_bf16
from fastat.training.front import Front, check_fixed
from fastat.training.images import Images, batches, check_box, images_of, training_sets
from fastat.training.network import CALLER, CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, build_model, normalization
from fastat.training.state import State, new_state
from fastat.training.step import Learner, Replay

_WEIGHTS = 0x3E1647  # the purpose in the key of the initial weights


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
        schedule: for how long it trains, with which learning rates and average.
        settings: how it is watched and ended.
    """

    learner: Learner
    images: Images
    batches: Callable[[range], Iterator[Batch]]
    state: State
    folder: RunFolder
    front: Front
    attacked: bool
    schedule: OptimizerConfig
    settings: RunConfig

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.state.stopped) or self.state.epoch == self.schedule.epochs


def open_run(
    config: TrainConfig,
    folder: Path,
    data_root: str | Path | None,
    device: torch.device,
    group: Group | None = None,
    download: bool = False,
    split: Split | None = None,
    front: nn.Module | None = None,
    graph: bool = True,
) -> Run:
    """A new run in the folder, or the unfinished one it holds, to be continued.

    Raises:
        FileNotFoundError: the dataset is missing.
        ValueError: a value of the configuration is out of its range or does not fit the data, the device or the number
            of processes, or the folder holds a run of another configuration or of other images; the message names
            what differs.
    """
    check_config(config)
    check_same_config(folder, config)
    if config.run.sync_bn and device.type != "cuda":
        raise ConfigError("sync_bn", f"sync_bn must be off on {device.type}: torch has it for CUDA only, got True")
    front = None if front is None else copy.deepcopy(front)
    given = of_the_caller(split, front)
    check_same_caller(folder, given)
    split = _load(config.dataset.data, data_root, download, group) if split is None else split
    if config.threat.box:
        check_box(split)
    train_set, val_set = training_sets(config.dataset, config.run.seed, split)
    size = min(config.optimizer.batch_size, len(train_set))
    if size % size_of(group):
        rule = f"a multiple of the number of processes, {size_of(group)}"
        raise ConfigError("batch_size", f"batch_size must be {rule}, got {size}")
    place = Place(device, group, layout_of(config.run.channels_last, device), uses_bf16(config.run.precision, device))
    begun = (folder / CHECKPOINT).exists()
    model, notes = _new_model(config, split, place, begun)
    if front is not None:
        check_fixed(front, train_set.image_shape)
    images = images_of(train_set, val_set, size, device, group)
    ahead = Front(None if front is None else front.to(device))
    run = _new_run(config, RunFolder(folder, config, images.train_set), images, ahead, model, place, graph)
    run.state.current.findings.extend({"monitor": "weights", "step": 0, "text": note} for note in notes)
    if begun:
        restore(run.learner, run.state, images.part, load_checkpoint(folder / CHECKPOINT))
    _check_same_place(run)
    if rank_of(group) == 0:
        _write_files(run, given)
    return run


def _new_run(
    config: TrainConfig, folder: RunFolder, images: Images, front: Front, model: nn.Module, place: Place, graph: bool
) -> Run:
    method, schedule, settings = config.method, config.optimizer, config.run
    free = method.attack == "free"
    shape = (images.part.stop - images.part.start, *images.train_set.image_shape)
    seen = front.before(model)
    learner = Learner(
        model=model,
        forward=torch.compile(seen) if settings.compile else seen,
        optimizer=_sgd(schedule, model),
        clip_grad=schedule.clip_grad,
        protocol=protocol_of(method, config.threat),
        threat=config.threat,
        delta=torch.zeros(shape, device=place.device) if free else None,
        average=None if schedule.average == "none" else average_of(model),
        ema_decay=schedule.ema_decay if schedule.average == "ema" else None,
        seed=settings.seed,
        place=place,
        replay=Replay(wanted=graph),
    )
    augmentation = Augmentation(config.dataset.augment, config.dataset.cutout, settings.seed)
    replays = method.replays if free else 1
    return Run(
        learner=learner,
        images=images,
        batches=partial(batches, images, augmentation, seed=settings.seed, replays=replays, device=place.device),
        state=new_state(images.steps_per_epoch, place.device),
        folder=folder,
        front=front,
        attacked=method.attack != "none",
        schedule=schedule,
        settings=settings,
    )


def _write_files(run: Run, given: dict[str, str]) -> None:
    """The files of a run before the first step."""
    folder = run.folder.path
    folder.mkdir(parents=True, exist_ok=True)
    if given:
        write_json(folder / CALLER, given)
    else:
        (folder / CALLER).unlink(missing_ok=True)
    write_json(folder / CONFIG, as_fields(run.folder.config))
    if not run.over:
        write_json(folder / ENVIRONMENT, {**describe_environment(), "processes": str(size_of(run.learner.place.group))})
    write_json_lines(folder / METRICS, run.state.history)
    save_best(run.folder, run.learner.evaluated, run.state)


def _load(name: str, data_root: str | Path | None, download: bool, group: Group | None) -> Split:
    """The dataset; where it is to be downloaded, the first process does that while the others wait."""
    first = rank_of(group) == 0
    if download and group is not None and not first:
        dist.barrier(group)
    split = data.load(name, data_root, download=download and first)
    if download and group is not None and first:
        dist.barrier(group)
    return split


def _check_same_place(run: Run) -> None:
    """Raises ValueError if the processes of the group did not find the same checkpoint."""
    group = run.learner.place.group
    if group is None:
        return
    steps = torch.tensor([run.state.step, -run.state.step], device=run.learner.place.device)
    dist.all_reduce(steps, dist.ReduceOp.MAX, group=group)
    if int(steps.sum()) != 0:
        raise ValueError(f"{run.folder.path} must be one folder that all processes share: they are at different steps")


def _new_model(config: TrainConfig, split: Split, place: Place, begun: bool) -> tuple[nn.Module, list[str]]:
    """The network before its first step, and what is worth to know of the weights it starts from. Those of a run that
    has begun come from its checkpoint: files that it started from are not read again, and may be gone."""
    network, train_set = config.network, split.train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.run.seed, _WEIGHTS))
        try:
            model = build_model(
                network, len(train_set.classes), train_set.image_shape, *normalization(network.normalize, train_set),
                pretrained=network.pretrained and not begun,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError("model", str(error)) from error
    notes: list[str] = []
    if network.init is not None and not begun:
        file = Path(network.init)
        try:
            notes = models.load_weights(model, models.read_weights(file), file, other_classes=True)
        except (OSError, ValueError) as error:
            raise ConfigError("init", str(error)) from error
    whole: nn.Module = model
    if config.run.sync_bn and place.group is not None:
        whole = nn.SyncBatchNorm.convert_sync_batchnorm(model, place.group)
    return placed(whole, place.layout, place.device), notes


def _sgd(settings: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """SGD; normalizations and biases are the parameters of fewer than two dimensions."""
    decay = 0.0 if settings.exempt_norm_and_bias else settings.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": decay},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,  # a skipped step is then skipped on the device, without waiting for it
    )
    if settings.momentum > 0:
        for p in model.parameters():  # torch would leave these unwritten if the first step is skipped
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer
