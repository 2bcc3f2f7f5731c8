"""One training on injected images, looked at after every few epochs: a cell of the sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from fastat import data
from fastat.data import Dataset
from fastat.evaluation import evaluate_images
from fastat.protocols import ProtocolName
from fastat.support.threat import ThreatModel
from fastat.theory.catastrophic.curvature import curvature
from fastat.theory.catastrophic.low_pass import LowPass
from fastat.theory.catastrophic.views import PARTS, Injection, injected_dataset, injected_split, view_accuracies, views
from fastat.theory.digest import json_digest
from fastat.training import TrainConfig, check_config, default_config, monitors, train_configured

Method = Literal["fgsm", "rs-fgsm", "n-fgsm", "gradalign", "pgd"]
METHODS: dict[Method, ProtocolName] = {
    "fgsm": "fgsm-at",
    "rs-fgsm": "rs-fgsm",
    "n-fgsm": "n-fgsm",
    "gradalign": "gradalign",
    "pgd": "pgd-at",
}
TITLES: dict[Method, str] = {
    "fgsm": "FGSM",
    "rs-fgsm": "RS-FGSM",
    "n-fgsm": "N-FGSM",
    "gradalign": "GradAlign",
    "pgd": "PGD-10",
}


@dataclass(frozen=True)
class Training:
    """What all trainings of an experiment have in common, and how they are looked at."""

    data: str = "digits"
    """Dataset, of at least 3x3 pixels."""
    model: str = "small_cnn"
    """Network."""
    width: int | None = 16
    """Its width; none for a network whose width is fixed."""
    epochs: int = 60
    """Passes over the training images."""
    batch_size: int = 32
    """Images per step."""
    lr: float = 0.2
    """Peak of the cyclic learning rate."""
    train_size: int | None = None
    """Training images, a random choice; all if not given."""
    attack: str = "pgd-20"
    """Attack that decides whether a network is robust: pgd-STEPS or pgd-STEPSxRESTARTS."""
    test_size: int | None = None
    """Test images that networks are looked at with, a random choice, the same for all; all if not given."""
    measure_every: int = 1
    """Epochs between two looks."""


@dataclass(frozen=True)
class Cell(Training):
    """A training and how it is looked at; its outcome depends on nothing else."""

    method: Method = "fgsm"
    """fgsm, rs-fgsm, n-fgsm, gradalign (lambda 0.2) or pgd (10 steps)."""
    beta: float = 0.1
    """Amplitude of the injected patterns, in the unit of the pixels."""
    eps: float = 0.2
    """Radius of the perturbation in the linf norm, of the training and of the attacks that evaluate it."""
    injection: Injection = "plain"
    """plain or projected; see :mod:`fastat.theory.catastrophic.views`."""
    bandwidth: int = 0
    """Low pass in front of the network while it is trained and looked at; 0: none."""
    seed: int = 0
    """Seed of weights, order and attacks."""


def train_config(cell: Cell) -> TrainConfig:
    """The training of a cell: no augmentation, which would mix the patterns up, and attacks without a box.

    The attack sees the network in train mode, as in the code of the single-step methods.

    Raises:
        ValueError: an unknown method, or a value that is out of its range.
    """
    if cell.method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {cell.method!r}")
    config = default_config(
        cell.data,
        METHODS[cell.method],
        model=cell.model,
        width=cell.width,
        eps=cell.eps,
        epochs=cell.epochs,
        batch_size=cell.batch_size,
        lr=cell.lr,
        train_size=cell.train_size,
        seed=cell.seed,
        box=False,
        augment="none",
        val_size=0,
        select="last",
    )
    check_config(config)
    return config


def run_cell(
    cell: Cell, *, folder: Path, data_root: Path | None = None, download: bool = False, device: str | None = None
) -> dict[str, Any]:
    """Trains, and returns the cell's fields, what was seen by epoch, and when PGD accuracy collapsed, if it did.

    Args:
        cell: what to train.
        folder: the run is kept in a folder below it, and a stopped one continued.
        data_root, download, device: see :func:`fastat.training.train_configured`.

    Returns:
        ``cell``; ``history``, a list of dicts "epoch", "clean", "fgsm", "pgd" (accuracy on injected test images under
        ``cell.attack``), "curvature" and the accuracies on the views in PARTS; ``collapse``, see
        :func:`collapse_epoch`; with a low pass also ``unfiltered``, the last of these numbers without it.
    """
    original = data.load(cell.data, data_root, download=download)
    split = injected_split(original, cell.beta, cell.injection)
    measure = measurement(original.test.load().subset(cell.test_size, 0), cell)
    front = LowPass(cell.bandwidth) if cell.bandwidth else None
    network = train_configured(
        train_config(cell), folder / _name(cell), device=device, split=split, front=front, quiet=True, measure=measure,
        measure_every=cell.measure_every,
    )  # fmt: skip
    history = [{"epoch": row["epoch"], **row["measured"]} for row in network.history if row["measured"]]
    found = {"cell": dataclasses.asdict(cell), "history": history, "collapse": collapse_epoch(history)}
    return found | ({"unfiltered": measure(network.model)} if front is not None else {})


def measurement(test: Dataset, cell: Cell) -> Callable[[nn.Module], dict[str, float]]:
    """What is looked at: a function of the network that leaves it as found.

    Args:
        test: test images as they are, not injected.
        cell: the training.
    """
    injected, seen = injected_dataset(test, cell.beta, cell.injection), views(test, cell.beta, cell.injection)

    def measure(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        some = injected.to(device)
        x, y = some.pixels(), some.labels
        attacks = ["fgsm", cell.attack]
        threat = ThreatModel(eps=cell.eps, bounds=None)
        accuracy = evaluate_images(model, some, threat, attacks=attacks, seed=cell.seed).accuracy
        return {
            "clean": accuracy["clean"],
            "fgsm": accuracy["fgsm"],
            "pgd": accuracy[cell.attack],
            "curvature": float(curvature(model, x, y, cell.eps).mean()),
            **view_accuracies(model, {name: seen[name].to(device) for name in PARTS}, y),
        }

    return measure


def collapse_epoch(history: Sequence[dict[str, Any]]) -> int | None:
    """The epoch at which training collapsed for good, None where it did not.

    The first one from which on the monitor's ``collapsed`` holds to the end: PGD accuracy below half of its best
    so far while that under FGSM stays well above it.
    """
    epoch, best = None, 0.0
    for row in history:
        if not monitors.collapsed(best, {"fgsm": row["fgsm"], "pgd": row["pgd"]}):
            epoch = None
        elif epoch is None:
            epoch = row["epoch"]
        best = max(best, row["pgd"])
    return epoch


def _name(cell: Cell) -> str:
    """The folder of a cell's run: what it is for readers, and a digest of all of it."""
    digest = json_digest(dataclasses.asdict(cell), 8)
    return f"{cell.method}-beta{cell.beta:g}-eps{cell.eps:g}-seed{cell.seed}-{digest}"
