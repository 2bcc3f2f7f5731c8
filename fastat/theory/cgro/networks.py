"""Trained networks: one turned into a memorizer, and adversarially trained ones of several widths."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastat import data
from fastat.data import Dataset, Split
from fastat.evaluation import evaluate_images
from fastat.support.keyed import derive_seed
from fastat.support.threat import ThreatModel
from fastat.theory.cgro.memorizer import RobustMemorizer
from fastat.theory.digest import json_digest
from fastat.training import TrainConfig, choose_device, default_config, train_configured

CORNERS = 20
"""Random corners of each ball that a memorizer is tried at."""

_CORNERS, _TRAIN, _TEST = 0xC0, 0x7A, 0x7E  # purposes in the keys of the random numbers
_AT_A_TIME = 500


@dataclass(frozen=True)
class MemorizerCell:
    """A network trained without attack, and the memorizer made of it."""

    data: str
    delta: float
    width: int
    epochs: int
    points: int | None
    attack: str
    eval_size: int | None
    seed: int


@dataclass(frozen=True)
class WidthCell:
    """An adversarially trained small CNN."""

    data: str
    delta: float
    width: int
    epochs: int
    batch_size: int
    train_size: int | None
    attack: str
    eval_size: int | None
    seed: int


@dataclass(frozen=True)
class CountCell:
    """A memorizer of some of the training images, each pixel repeated ``enlarged`` times each way."""

    data: str
    delta: float
    points: int
    enlarged: int
    seed: int


def memorizer_outcome(
    cell: MemorizerCell, *, folder: Path, data_root: Path | None = None, device: str | None = None
) -> dict[str, Any]:
    """Accuracies of the network ("f") and of its memorizer ("f_S"), the certificate, and who is in a foreign bump."""
    split = _split(cell.data, cell.points, cell.seed, data_root)
    network = train_configured(standard_config(cell), folder / _run_name(cell), split=split, quiet=True, device=device)
    place = choose_device(device)
    points = _dataset(split.train).to(place)
    memorizer = RobustMemorizer(network.model, points.pixels(), points.labels, cell.delta)
    margins = memorizer.certify()
    test = _dataset(split.test).to(place)
    attacked = _measured(split.train, cell, _TRAIN, place)
    return {
        **dataclasses.asdict(cell),
        "points": len(points),
        "separation": memorizer.separation,
        "certified": float((margins > 0).double().mean()),
        "least_margin": float(margins.min()),
        "attacked": len(attacked),
        "corners": corner_accuracy(memorizer, attacked.pixels(), attacked.labels, cell.delta, CORNERS, cell.seed),
        "test_images": len(test),
        "in_foreign_bump": int(memorizer.in_foreign_bump(test.pixels(), test.labels).sum()),
        "f": _accuracies(network.model, split, cell, place),
        "f_S": _accuracies(memorizer, split, cell, place),
    }


def width_outcome(
    cell: WidthCell, *, folder: Path, data_root: Path | None = None, device: str | None = None
) -> dict[str, Any]:
    """Accuracies of an adversarially trained network on its training images and on test images."""
    split = _split(cell.data, cell.train_size, cell.seed, data_root)
    network = train_configured(width_config(cell), folder / _run_name(cell), split=split, quiet=True, device=device)
    found = _accuracies(network.model, split, cell, choose_device(device))
    parameters = sum(weights.numel() for weights in network.model.parameters())
    return {**dataclasses.asdict(cell), "train_images": len(split.train), "parameters": parameters, **found}


def count_outcome(cell: CountCell, *, data_root: Path | None = None, device: str | None = None) -> dict[str, Any]:
    """The extra parameters of a memorizer; they do not depend on the network it is made of."""
    points = _dataset(_split(cell.data, cell.points, cell.seed, data_root).train).to(choose_device(device))
    x = points.pixels().repeat_interleave(cell.enlarged, 2).repeat_interleave(cell.enlarged, 3)
    memorizer = RobustMemorizer(_Silent(len(points.classes)), x, points.labels, cell.delta)
    count = memorizer.parameter_count()
    return {**dataclasses.asdict(cell), "points": len(x), "dimension": x[0].numel(), "parameters": count}


def standard_config(cell: MemorizerCell) -> TrainConfig:
    """How the network of a memorizer is trained."""
    return default_config(
        cell.data, "standard", model="small_cnn", width=cell.width, epochs=cell.epochs, seed=cell.seed, val_size=0,
        select="last",
    )  # fmt: skip


def width_config(cell: WidthCell) -> TrainConfig:
    """How a network of some width is trained: on the images as they are, to the last epoch, where it overfits."""
    return default_config(
        cell.data, "pgd-at", model="small_cnn", width=cell.width, eps=cell.delta, epochs=cell.epochs,
        batch_size=cell.batch_size, seed=cell.seed, val_size=0, select="last", augment="none",
    )  # fmt: skip


@torch.no_grad()
def corner_accuracy(model: nn.Module, x: Tensor, y: Tensor, delta: float, corners: int, seed: int = 0) -> float:
    """Fraction of the x [N, ...] that are classified right at all of so many random corners of their linf ball.

    Inside a ball the memorizer's bump is flat, so gradients say nothing of it: corners do not need them. The box of the
    pixels is ignored, as in the certificate.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, _CORNERS))
    right = torch.ones(len(x), dtype=torch.bool, device=x.device)
    for _ in range(corners):
        signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
        parts = (x + delta * signs).split(_AT_A_TIME)
        right &= torch.cat([model(part).argmax(1) for part in parts]) == y
    return float(right.double().mean())


class _Silent(nn.Module):
    """Logits that say nothing."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.num_classes)


def _run_name(cell: MemorizerCell | WidthCell) -> str:
    """A folder name of its own for each cell, whatever of it changes."""
    place = "".join(letter if letter.isalnum() else "-" for letter in cell.data)
    digest = json_digest([type(cell).__name__, dataclasses.asdict(cell)], 8)
    return f"{place}-{cell.width}-{cell.seed}-{digest}"


def _split(name: str, train_size: int | None, seed: int, root: Path | None) -> Split:
    split = data.load(name, root)
    return Split(split.train.subset(train_size, seed), split.test)


def _dataset(images: data.AnyDataset) -> Dataset:
    return images.load()


def _measured(images: data.AnyDataset, cell: MemorizerCell | WidthCell, key: int, device: torch.device) -> Dataset:
    """The images that accuracies are taken on."""
    return _dataset(images.subset(cell.eval_size, derive_seed(cell.seed, key))).to(device)


def _accuracies(
    model: nn.Module, split: Split, cell: MemorizerCell | WidthCell, device: torch.device
) -> dict[str, float]:
    """Clean and under the cell's attack, on the training and on the test images."""
    found: dict[str, float] = {}
    for name, images, key in (("train", split.train, _TRAIN), ("test", split.test, _TEST)):
        some = _measured(images, cell, key, device)
        threat = ThreatModel(eps=cell.delta)
        accuracy = evaluate_images(model, some, threat, attacks=[cell.attack], seed=cell.seed).accuracy
        found |= {f"clean_{name}": accuracy["clean"], f"robust_{name}": accuracy[cell.attack]}
    return found
