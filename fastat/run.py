"""A training run and its folder: what is made, saved, and found again."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastat import data, models
from fastat._extension import CUDA_BUILD, CUDA_MISSING, REBUILD_HINT
from fastat.checkpoint import load_checkpoint, save_checkpoint, write_json, write_json_lines
from fastat.config import TrainConfig, check_config, differing_fields
from fastat.data import Dataset, Split, channel_statistics, flip_labels
from fastat.keyed import derive_seed

_WEIGHTS = 0x3E1647  # the purpose in the key of the initial weights


@dataclass
class Run:
    """A training run: what it works with, and where it is.

    Attributes:
        config: what is trained.
        folder: where it is saved.
        device: where it runs.
        model: the network.
        optimizer: SGD on all its parameters.
        train_set: on the device.
        monitor_set: test images for the curves, on the device.
        history: the lines of metrics.jsonl, one per finished epoch.
        epoch: number of finished epochs.
        step: number of finished steps of the current epoch.
        losses: float32 [steps of an epoch], the objective of each step.
        hits: int64 [steps of an epoch], the attacked images each step classified correctly.
        seconds: time spent on the steps of the current epoch.
    """

    config: TrainConfig
    folder: Path
    device: torch.device
    model: nn.Module
    optimizer: torch.optim.Optimizer
    train_set: Dataset
    monitor_set: Dataset
    history: list[dict[str, Any]]
    epoch: int
    step: int
    losses: Tensor
    hits: Tensor
    seconds: float

    @property
    def batch_size(self) -> int:
        """Images per step: the configured number, or all of a smaller training set."""
        return min(self.config.batch_size, len(self.train_set))

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in the training set. What is left over is another part of it in every epoch."""
        return len(self.train_set) // self.batch_size

    @property
    def global_step(self) -> int:
        """Number of finished steps of the whole run."""
        return self.epoch * self.steps_per_epoch + self.step


@dataclass(frozen=True)
class Network:
    """A trained network and what there is to know about it.

    Attributes:
        model: in eval mode; takes pixels [B, C, H, W] in [0, 1], returns logits [B, len(classes)].
        config: how it was trained.
        title: the dataset's title.
        classes: the name of each class.
        history: the lines of metrics.jsonl, one per finished epoch.
    """

    model: nn.Module
    config: TrainConfig
    title: str
    classes: tuple[str, ...]
    history: list[dict[str, Any]]

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) == self.config.epochs


def open_run(config: TrainConfig, folder: Path, data_root: str | Path | None, device: torch.device) -> Run:
    """A new run in the folder, or the unfinished one it holds, to be continued.

    Raises:
        FileNotFoundError: the dataset is missing.
        ValueError: a value of the configuration is out of its range, or the folder holds a run of another
            configuration; the message names the fields.
    """
    check_config(config)
    check_same_config(folder, config)
    split = data.load(config.data, data_root)
    mean, std = channel_statistics(split.train)
    classes, channels = split.train.classes, split.train.images.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, _WEIGHTS))
        model: nn.Module = models.build(config.model, len(classes), channels, mean, std, config.width)
    model = place(model, device)
    train_set = training_set(config, split).to(device)
    run = Run(
        config=config,
        folder=folder,
        device=device,
        model=model,
        optimizer=torch.optim.SGD(
            model.parameters(),
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=config.nesterov,
        ),
        train_set=train_set,
        monitor_set=split.test.subset(config.monitor_size, config.seed).to(device),
        history=[],
        epoch=0,
        step=0,
        losses=torch.zeros(0),
        hits=torch.zeros(0),
        seconds=0.0,
    )
    start_epoch(run)
    if checkpoint_path(folder).exists():
        _restore(run, load_checkpoint(checkpoint_path(folder)))
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", dataclasses.asdict(config))
    write_json_lines(folder / "metrics.jsonl", run.history)
    return run


def training_set(config: TrainConfig, split: Split) -> Dataset:
    """What a run trains on: its choice of the training images, with its share of wrong labels."""
    return flip_labels(split.train.subset(config.train_size, config.seed), config.label_noise, config.seed)


def start_epoch(run: Run) -> None:
    """Sets the counts of the current epoch to zero."""
    run.step = 0
    run.seconds = 0.0
    run.losses = torch.zeros(run.steps_per_epoch, device=run.device)
    run.hits = torch.zeros(run.steps_per_epoch, dtype=torch.int64, device=run.device)


def save_run(run: Run) -> None:
    """Writes the checkpoint, then metrics.jsonl, which is a copy of the history inside the checkpoint."""
    state = {
        "config": dataclasses.asdict(run.config),
        "title": run.train_set.title,
        "classes": list(run.train_set.classes),
        "channels": run.train_set.images.shape[1],
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "history": run.history,
        "epoch": run.epoch,
        "step": run.step,
        "losses": run.losses,
        "hits": run.hits,
        "seconds": run.seconds,
    }
    save_checkpoint(checkpoint_path(run.folder), state)
    write_json_lines(run.folder / "metrics.jsonl", run.history)


def load_network(folder: str | Path, device: torch.device | str | None = None) -> Network:
    """The network of a run folder as of its last checkpoint, on the device (by default the GPU if there is one).

    Raises:
        FileNotFoundError: the folder has no checkpoint.
        ValueError: its checkpoint cannot be read.
    """
    state = load_checkpoint(checkpoint_path(Path(folder)))
    config = TrainConfig(**state["config"])
    mean, std = state["model"]["mean"].tolist(), state["model"]["std"].tolist()
    with torch.random.fork_rng(devices=[]):
        model = models.build(config.model, len(state["classes"]), state["channels"], mean, std, config.width)
    model.load_state_dict(state["model"])
    placed = place(model, choose_device(device)).eval()
    return Network(placed, config, state["title"], tuple(state["classes"]), state["history"])


def choose_device(device: torch.device | str | None) -> torch.device:
    """The device of that name; for None the GPU if there is one that fastat has kernels for, else the CPU.

    Raises:
        ValueError: a GPU is asked for and there is none, or fastat was built without CUDA code.
    """
    found = torch.cuda.is_available()
    if device is None:
        return torch.device("cuda" if found and CUDA_BUILD else "cpu")
    chosen = torch.device(device)
    if chosen.type == "cuda" and not found:
        raise ValueError(f"device {str(chosen)!r}: torch finds no CUDA device")
    if chosen.type == "cuda" and CUDA_BUILD is None:
        raise ValueError(f"device {str(chosen)!r}: {CUDA_MISSING}; {REBUILD_HINT}")
    return chosen


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """The model on the device; on a GPU in channels_last, the layout its convolutions are fast in."""
    model = model.to(device)
    return model.to(memory_format=torch.channels_last) if device.type == "cuda" else model


def check_same_config(folder: Path, config: TrainConfig) -> None:
    """Raises ValueError if the folder holds a run of another configuration; the message names the fields."""
    file = folder / "config.json"
    if file.exists() and (differing := differing_fields(json.loads(file.read_text()), config)):
        raise ValueError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}): "
            f"choose another folder, or delete this one"
        )


def checkpoint_path(folder: Path) -> Path:
    """Where a run folder keeps its checkpoint."""
    return folder / "checkpoint.pt"


def _restore(run: Run, state: dict[str, Any]) -> None:
    run.model.load_state_dict(state["model"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.history = state["history"]
    run.epoch, run.step, run.seconds = state["epoch"], state["step"], state["seconds"]
    run.losses.copy_(state["losses"])
    run.hits.copy_(state["hits"])
