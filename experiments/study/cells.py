"""What the study trains: datasets x arms x flipped labels x widths x seeds, as configurations of fastat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastat.training import TrainConfig, default_config

DATASETS = ("digits", "mnist", "cifar10")
NOISES = (0.0, 0.1)
LOSS_ATTACK, ACCURACY_ATTACK = "pgd-10", "pgd-20"
ORDER = "hd"

ALPHAS = (0.0, 0.05, 0.1)
RS = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)
"""The budgets at which the HR loss of every training set is measured, whatever the network was trained with."""


@dataclass(frozen=True)
class Arm:
    """A way to train: its name in tables, and what it sets.

    Attributes:
        alpha, r: the budgets at which its in-sample loss is evaluated; zero where the training knows of none.
    """

    name: str
    protocol: str = "pgd-at"
    alpha: float = 0.0
    r: float = 0.0
    beta: float | None = None

    @property
    def changes(self) -> dict[str, Any]:
        """The fields of TrainConfig it sets."""
        if self.protocol == "hr":
            return {"alpha": self.alpha, "r": self.r, "order": ORDER}
        return {} if self.beta is None else {"beta": self.beta}


PLAIN = Arm("plain")
BY_R = (Arm("HR r 0.05", "hr", r=0.05), Arm("HR r 0.1", "hr", r=0.1), Arm("HR r 0.2", "hr", r=0.2))
BY_ALPHA = (Arm("HR alpha 0.05", "hr", alpha=0.05), Arm("HR alpha 0.1", "hr", alpha=0.1))
BOTH = Arm("HR alpha 0.1, r 0.1", "hr", alpha=0.1, r=0.1)
BENIGN = (Arm("BAT beta 0", "bat", beta=0.0), Arm("BAT beta 0.2", "bat", beta=0.2))
ARMS = {arm.name: arm for arm in (PLAIN, *BY_R, *BY_ALPHA, BOTH, *BENIGN)}


@dataclass(frozen=True)
class Setting:
    """How one dataset is trained and measured.

    Attributes:
        training: fields of TrainConfig that all its runs share.
        measure_every: epochs between two measurements.
        test_size: test images of a measurement, the same for all runs.
        seeds: number of seeds.
    """

    training: Mapping[str, Any]
    measure_every: int
    test_size: int
    seeds: int = 3


@dataclass(frozen=True)
class Cell:
    """Runs that differ by their seed alone."""

    data: str
    arm: str
    noise: float
    width: int

    @property
    def folder(self) -> str:
        """Its part of a run folder's name."""
        arm = self.arm.lower().replace(",", "").replace(" ", "-")
        return f"{self.data}/{arm}-flipped{100 * self.noise:g}-width{self.width}"


_SHARED: Mapping[str, Any] = {
    "model": "small_cnn",
    "train_size": 500,
    "batch_size": 64,
    "attack_steps": 5,
    "lr": 0.05,  # at 0.1 the largest budgets, alpha and r 0.1 together, do not leave the uniform prediction
    "schedule": "multistep",  # the one on which robust overfitting was described (Rice, Wong, Kolter 2020)
    "augment": "none",
    "val_size": 0,  # the study measures by itself
    "attack_mode": "eval",
}
_SETTINGS = {
    "digits": Setting({**_SHARED, "eps": 0.15, "epochs": 60}, measure_every=6, test_size=359),
    "mnist": Setting({**_SHARED, "eps": 0.3, "epochs": 36}, measure_every=9, test_size=400),
    "cifar10": Setting({**_SHARED, "eps": 8 / 255, "epochs": 40}, measure_every=8, test_size=400),
}
WIDTHS = {"digits": 10, "mnist": 8, "cifar10": 8}
OTHER_WIDTHS = (4, 24)
"""Of digits: the effect of the network's size."""


def setting_of(data: str, quick: bool) -> Setting:
    """How a dataset is trained and measured; quick is a trial of the machinery, not a measurement."""
    full = _SETTINGS[data]
    if not quick:
        return full
    return Setting({**full.training, "train_size": 128, "epochs": 4}, measure_every=2, test_size=60, seeds=1)


def cells_of(data: str, quick: bool) -> list[Cell]:
    """The cells of a dataset."""
    few = (PLAIN, BY_R[1], BY_ALPHA[1])
    by_noise = {0.0: (PLAIN, *BY_R, *BY_ALPHA, BOTH, *BENIGN), 0.1: (PLAIN, *BY_R, *BY_ALPHA, BOTH, *BENIGN)}
    if data == "mnist" or quick:
        by_noise = {0.0: (*few, *BENIGN), 0.1: few}
    elif data == "cifar10":
        by_noise = {0.0: (PLAIN, *BY_R, BY_ALPHA[1], *BENIGN), 0.1: few}
    cells = [Cell(data, arm.name, noise, WIDTHS[data]) for noise in NOISES for arm in by_noise[noise]]
    if data == "digits" and not quick:
        cells += [Cell(data, arm.name, noise, width) for width in OTHER_WIDTHS for noise in NOISES for arm in few]
    return cells


def config_of(cell: Cell, seed: int, quick: bool) -> TrainConfig:
    """The run of a cell with a seed."""
    arm = ARMS[cell.arm]
    fields = {**setting_of(cell.data, quick).training, **arm.changes}
    return default_config(cell.data, arm.protocol, **fields, width=cell.width, label_noise=cell.noise, seed=seed)
