"""A training run and its folder: what is made, saved, and found again."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastat import data
from fastat.data import (
    AnyDataset,
    Dataset,
    Split,
    channel_statistics,
    content_digest,
    dataset_digest,
    flip_labels,
    held_out,
)
from fastat.kernels import describe_environment
from fastat.support.distributed import Group, rank_of, size_of
from fastat.support.files import load_checkpoint, write_json, write_json_lines
from fastat.support.keyed import derive_seed
from fastat.training.averaging import average_of
from fastat.training.config import ConfigError, TrainConfig, check_config, config_from, differing_fields
from fastat.training.monitors import PROBE_IMAGES, Watch
from fastat.training.network import CALLER, CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, build_model, place
from fastat.training.saving import restore, save_best

NOT_YET, RECORDED = "not yet", "recorded"
"""Of :attr:`Run.recording`."""

_WEIGHTS = 0x3E1647  # the purpose in the key of the initial weights


@dataclass
class Run:
    """A training run: what it works with, and where it is.

    Attributes:
        config: what is trained.
        folder: where it is saved.
        device: where it runs.
        group: the processes that share every batch; None for this one alone.
        model: the network.
        network: the network as training calls it: behind ``front``, compiled, or ``model`` itself.
        front: what stands in front of the network in this run and is not part of it, or None.
        average: the average of its weights, or None.
        optimizer: SGD on all its parameters.
        train_set: what it learns from.
        val_set: training images set apart, on the device; None without any.
        probe_set: images on which the monitors look for a collapse, on the device.
        delta: the perturbation that attack "free" carries on, of this process's part of the batch; else None.
        history: the lines of metrics.jsonl, one per finished epoch.
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        losses: float32 [steps of an epoch], the objective of each step; NaN for a skipped one.
        hits: float32 [steps of an epoch], the attacked images each step classified correctly.
        seconds: time spent on the steps of the current epoch.
        findings: what the monitors saw in the current epoch.
        averaged: number of epochs in the average "swa".
        closing: whether the current epoch is in that average already.
        watch: the memory of the monitor of catastrophic overfitting.
        sound: the weights of the last sound probe, kept where a collapse rolls the run back.
        stopped: why the run is over before its last epoch; empty while it is not.
        graph: whether work on a GPU, validation and probes included, may be recorded as CUDA graphs.
        recording: whether steps are replayed from such a graph: NOT_YET, RECORDED, or why they cannot be.
        seen: models behind the front.
    """

    config: TrainConfig
    folder: Path
    device: torch.device
    group: Group | None
    model: nn.Module
    network: Callable[[Tensor], Tensor]
    front: nn.Module | None
    average: nn.Module | None
    optimizer: torch.optim.Optimizer
    train_set: AnyDataset
    val_set: Dataset | None
    probe_set: Dataset
    delta: Tensor | None
    history: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    hits: Tensor = field(default_factory=lambda: torch.zeros(0))
    seconds: float = 0.0
    findings: list[dict[str, Any]] = field(default_factory=list)
    averaged: int = 0
    closing: bool = False
    watch: Watch = field(default_factory=Watch)
    sound: dict[str, Any] = field(default_factory=dict)
    stopped: str = ""
    graph: bool = True
    recording: str = NOT_YET
    seen: dict[nn.Module, nn.Module] = field(default_factory=dict)

    @property
    def batch_size(self) -> int:
        """Images per step, of all processes: the configured number, or all of a smaller training set."""
        return _batch_size(self.config, len(self.train_set))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training set. What is left over is another part of it in every epoch."""
        return len(self.train_set) // self.batch_size

    @property
    def global_step(self) -> int:
        """Number of finished steps of the whole run."""
        return self.epoch * self.steps_per_epoch + self.step

    @property
    def part(self) -> slice:
        """The part of every batch that is this process's."""
        size = self.batch_size // size_of(self.group)
        return slice(rank_of(self.group) * size, (rank_of(self.group) + 1) * size)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.stopped) or self.epoch == self.config.epochs

    @property
    def judged(self) -> nn.Module:
        """The network that is measured and kept: the average, where there is one."""
        return self.model if self.average is None else self.average

    def behind_front(self, model: nn.Module) -> nn.Module:
        """The model as this run sees it."""
        if self.front is None:
            return model
        if model not in self.seen:  # one that lasts keeps its recordings
            self.seen[model] = nn.Sequential(self.front, model)
        return self.seen[model]


def open_run(
    config: TrainConfig,
    folder: Path,
    data_root: str | Path | None,
    device: torch.device,
    group: Group | None = None,
    download: bool = False,
    split: Split | None = None,
    front: nn.Module | None = None,
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
    if config.sync_bn and device.type != "cuda":
        raise ConfigError("sync_bn", f"sync_bn must be off on {device.type}: torch has it for CUDA only, got True")
    front = None if front is None else copy.deepcopy(front)
    given = _of_the_caller(split, front)
    _check_same_caller(folder, given)
    split = _load(config, data_root, download, group) if split is None else split
    train_set, val_set = training_sets(config, split)
    size = _batch_size(config, len(train_set))
    if size % size_of(group):
        rule = f"a multiple of the number of processes, {size_of(group)}"
        raise ConfigError("batch_size", f"batch_size must be {rule}, got {size}")
    model = _new_model(config, split, device, group)
    if front is not None:
        _check_fixed(front, train_set)
        front = front.to(device)
    seen = model if front is None else nn.Sequential(front, model)
    shape = (size // size_of(group), *train_set.image_shape)
    run = Run(
        config=config,
        folder=folder,
        device=device,
        group=group,
        model=model,
        network=torch.compile(seen) if config.compile else seen,
        front=front,
        seen={} if front is None else {model: seen},
        average=None if config.average == "none" else average_of(model),
        optimizer=_optimizer(config, model),
        train_set=train_set.to(device),
        val_set=None if val_set is None else val_set.load().to(device),
        probe_set=(train_set if val_set is None else val_set).subset(PROBE_IMAGES, 0).load().to(device),
        delta=torch.zeros(shape, device=device) if config.attack == "free" else None,
    )
    start_epoch(run)
    if (folder / CHECKPOINT).exists():
        restore(run, load_checkpoint(folder / CHECKPOINT))
    _check_same_place(run)
    if rank_of(group) == 0:
        folder.mkdir(parents=True, exist_ok=True)
        if given:
            write_json(folder / CALLER, given)
        else:
            (folder / CALLER).unlink(missing_ok=True)
        write_json(folder / CONFIG, dataclasses.asdict(config))
        if not run.over:
            write_json(folder / ENVIRONMENT, {**describe_environment(), "processes": str(size_of(group))})
        write_json_lines(folder / METRICS, run.history)
        save_best(run)
    return run


def training_sets(config: TrainConfig, split: Split) -> tuple[AnyDataset, AnyDataset | None]:
    """What a run trains on, a choice of the training images with a share of wrong labels; and what it is watched on.

    Raises:
        ConfigError: val_size leaves nothing to train on.
    """
    try:
        rest, val_set = held_out(split.train, config.val_size)
    except ValueError as error:
        raise ConfigError("val_size", str(error)) from error
    return flip_labels(rest.subset(config.train_size, config.seed), config.label_noise, config.seed), val_set


def start_epoch(run: Run) -> None:
    """Sets the counts of the current epoch to zero."""
    run.step = 0
    run.seconds = 0.0
    if len(run.losses) != run.steps_per_epoch:  # a recorded step writes to where they are
        run.losses, run.hits = (
            torch.zeros(run.steps_per_epoch, dtype=torch.float32, device=run.device) for _ in range(2)
        )
    run.losses.zero_()
    run.hits.zero_()
    run.findings = []
    run.closing = False


def check_same_config(folder: Path, config: TrainConfig) -> None:
    """Raises ValueError if the folder holds a run of another configuration; the message names the fields."""
    file = folder / CONFIG
    if file.exists() and (differing := differing_fields(config_from(json.loads(file.read_text())), config)):
        raise ValueError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}): "
            f"choose another folder, or delete this one"
        )


def _of_the_caller(split: Split | None, front: nn.Module | None) -> dict[str, str]:
    """What stands for images and a front that do not come from the configuration."""
    found = {}
    if split is not None:
        found["images"] = dataset_digest(split.train)
    if front is not None:
        found["front"] = content_digest(str(front), *front.buffers())
    return found


def _check_same_caller(folder: Path, given: dict[str, str]) -> None:
    """Raises ValueError if the folder holds a run on other images, or behind another front."""
    if not (folder / CONFIG).exists():
        return
    file = folder / CALLER
    kept = json.loads(file.read_text()) if file.exists() else {}
    for name, what in (("images", "on other images"), ("front", "behind another front")):
        if kept.get(name) != given.get(name):
            raise ValueError(f"{folder} holds a run {what}: choose another folder, or delete this one")


def _check_fixed(front: nn.Module, train_set: AnyDataset) -> None:
    """Raises ValueError if the front would have something to learn, or changes when images pass it."""
    if any(True for _ in front.parameters()):
        raise ValueError(f"front must have no parameters: they would not be trained; got {front}")
    passed = copy.deepcopy(front).cpu().train()
    passed(torch.rand(2, *train_set.image_shape))
    for (name, before), after in zip(front.named_buffers(), passed.buffers(), strict=True):
        if not torch.equal(before.cpu(), after):
            raise ValueError(f"front must stay as it is, its buffer {name} changes in training; got {front}")


def _load(config: TrainConfig, data_root: str | Path | None, download: bool, group: Group | None) -> Split:
    """The dataset; where it is to be downloaded, the first process does that while the others wait."""
    first = rank_of(group) == 0
    if download and group is not None and not first:
        dist.barrier(group)
    split = data.load(config.data, data_root, download=download and first)
    if download and group is not None and first:
        dist.barrier(group)
    return split


def _check_same_place(run: Run) -> None:
    """Raises ValueError if the processes of the group did not find the same checkpoint."""
    if run.group is None:
        return
    steps = torch.tensor([run.global_step, -run.global_step], device=run.device)
    dist.all_reduce(steps, dist.ReduceOp.MAX, group=run.group)
    if int(steps.sum()) != 0:
        raise ValueError(f"{run.folder} must be one folder that all processes share: they are at different steps")


def _batch_size(config: TrainConfig, images: int) -> int:
    return min(config.batch_size, images)


def _new_model(config: TrainConfig, split: Split, device: torch.device, group: Group | None) -> nn.Module:
    mean, std = channel_statistics(split.train)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, _WEIGHTS))
        try:
            model = build_model(config, len(split.train.classes), split.train.image_shape, mean, std)
        except ValueError as error:
            raise ConfigError("model", str(error)) from error
    if config.sync_bn and group is not None:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model, group)
    return place(model, config, device)


def _optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """SGD; normalizations and biases are the parameters of fewer than two dimensions."""
    decay = 0.0 if config.exempt_norm_and_bias else config.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.dim() > 1]},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": decay},
    ]
    optimizer = torch.optim.SGD(
        groups,
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
        fused=True,  # a skipped step is then skipped on the device, without waiting for it
    )
    if config.momentum > 0:
        for p in model.parameters():  # torch would leave these unwritten if the first step is skipped
            optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer
