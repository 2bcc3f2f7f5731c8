"""A trained network and where it is kept: what evaluation and reports work with."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fastat import models
from fastat.data import AnyDataset
from fastat.models import ModelConfig
from fastat.support.files import load_checkpoint
from fastat.training.config import TrainConfig, as_fields, config_from
from fastat.training.devices import choose_device, layout_of, placed

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Network:
    """A trained network and what there is to know about it.

    Attributes:
        model: in eval mode; takes pixels [B, C, H, W] in [0, 1], returns logits [B, len(classes)].
        config: how it was trained.
        title: the dataset's title.
        classes: the name of each class.
        history: the lines of metrics.jsonl, one per finished epoch.
        epoch: number of epochs it was trained for.
        which: "best" if it is that of the best epoch on the validation images, "last" if it is that of the last one.
    """

    model: nn.Module
    config: TrainConfig
    title: str
    classes: tuple[str, ...]
    history: list[dict[str, Any]]
    epoch: int
    which: Which

    @property
    def stopped(self) -> str:
        """Why the run ended before its last epoch; empty if it did not."""
        return str(self.history[-1]["stopped"]) if self.history else ""

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no more will be."""
        return bool(self.stopped) or len(self.history) == self.config.optimizer.epochs


def network_state(config: TrainConfig, dataset: AnyDataset, model: nn.Module) -> dict[str, Any]:
    """What a file must hold for :func:`load_network` to build the network again."""
    return {
        "config": as_fields(config),
        "title": dataset.title,
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "model": model.state_dict(),
    }


def load_network(path: str | Path, device: torch.device | str | None = None, *, which: Which | None = None) -> Network:
    """The network of a run folder, or of a checkpoint file (checkpoint.pt, best.pt).

    Args:
        path: a run folder or a file.
        device: by default the GPU if there is one.
        which: of a folder, "best" or "last"; by default what the run's configuration selects, where it is there.

    Raises:
        FileNotFoundError: there is no such file, or the folder has no checkpoint.
        ValueError: the file cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        file = _file_of(file, which)
    state = load_checkpoint(file)
    config = config_from(state["config"])
    with torch.random.fork_rng(devices=[]):
        model = build_model(config.network, len(state["classes"]), state["image_shape"], *_statistics(state["model"]))
    # a run that averages its weights is evaluated by their average
    model.load_state_dict(state.get("average") or state["model"])
    chosen = choose_device(device)
    return Network(
        placed(model, layout_of(config.run.channels_last, chosen), chosen).eval(),
        config,
        state["title"],
        tuple(state["classes"]),
        _history(file, state),
        state["epoch"],
        "best" if file.name == BEST else "last",
    )


def build_model(
    network: ModelConfig, num_classes: int, image_shape: Sequence[int], mean: list[float], std: list[float]
) -> nn.Module:
    """The network of a configuration with weights drawn from torch's generator."""
    channels, height, width = image_shape
    size = (height, width)
    return models.build(network.model, num_classes, channels, mean, std, network.width, image_size=size)


CONFIG, ENVIRONMENT, METRICS = "config.json", "environment.json", "metrics.jsonl"
"""Files of a run folder: what is trained, on what, and a line per epoch."""
CALLER = "caller.json"
"""File of a run folder that has images or a front of the caller's: their digests."""
CHECKPOINT, BEST = "checkpoint.pt", "best.pt"
"""Files of a run folder: all that the run needs to go on, and the network of its best epoch."""


def _file_of(folder: Path, which: Which | None) -> Path:
    config = folder / CONFIG
    if which is None and (folder / BEST).exists() and config.exists():
        which = config_from(json.loads(config.read_text())).run.select
    return folder / (BEST if which == "best" else CHECKPOINT)


def _history(file: Path, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """That of the whole run, where the file is in its folder: best.pt knows it up to its own epoch."""
    metrics = file.parent / METRICS
    if not metrics.exists():
        return list(state["history"])
    return [json.loads(line) for line in metrics.read_text().splitlines()]


def _statistics(state: Mapping[str, torch.Tensor]) -> tuple[list[float], list[float]]:
    return state["mean"].tolist(), state["std"].tolist()
