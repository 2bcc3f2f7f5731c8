"""Small networks: the loss in the training set held against that of test images, over the length of a training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastat import data
from fastat.data import Dataset
from fastat.evaluation import adversarial_losses, evaluate_images
from fastat.objectives import holistic_loss
from fastat.theory.digest import json_digest
from fastat.training import TrainConfig, default_config, train_configured, training_sets

ATTACK = "pgd-10"
"""What losses and accuracies are measured under."""


@dataclass(frozen=True)
class NetworkCell:
    """One training; its seed draws the training images, the wrong labels, the weights and the order.

    Attributes:
        data, model, width, eps, train_size, epochs, batch_size, attack_steps, lr, label_noise, alpha, r, seed: see
            :class:`fastat.training.TrainConfig`; alpha = r = 0 is PGD training on the mean.
        test_size: test images, a random choice that is the same for all cells; None for all.
        measure_every: epochs between two measurements.
    """

    data: str
    model: str
    width: int | None
    eps: float
    train_size: int | None
    test_size: int | None
    epochs: int
    batch_size: int
    attack_steps: int
    lr: float
    label_noise: float
    alpha: float
    r: float
    measure_every: int
    seed: int

    @property
    def config(self) -> TrainConfig:
        """The training: the schedule on which robust overfitting was described (Rice, Wong, Kolter 2020)."""
        budgets = {"alpha": self.alpha, "r": self.r} if self.alpha > 0 or self.r > 0 else {}
        return default_config(
            self.data,
            "hr" if budgets else "pgd-at",
            model=self.model,
            width=self.width,
            eps=self.eps,
            train_size=self.train_size,
            epochs=self.epochs,
            batch_size=self.batch_size,
            attack_steps=self.attack_steps,
            lr=self.lr,
            schedule="multistep",
            label_noise=self.label_noise,
            val_size=0,
            select="last",
            seed=self.seed,
            **budgets,
        )


@dataclass(frozen=True)
class NetworkOutcome:
    """What a training gave: a number per measured epoch.

    Attributes:
        cell: the settings.
        epochs: the measured ones, from 1.
        in_sample: HR loss, at the budgets of the training, of the whole training set with the labels trained on.
        mean: the mean adversarial loss there.
        test: the mean adversarial loss of the test images, whose labels are right.
        clean, robust: accuracies on the test images, the latter under attack.
    """

    cell: NetworkCell
    epochs: list[int]
    in_sample: list[float]
    mean: list[float]
    test: list[float]
    clean: list[float]
    robust: list[float]

    @property
    def disappointed(self) -> bool:
        """Whether the trained network does worse on the test images than its HR loss in sample."""
        return self.test[-1] > self.in_sample[-1]

    @property
    def optimism(self) -> float:
        """Test loss minus mean training loss, of the trained network."""
        return self.test[-1] - self.mean[-1]

    @property
    def gap(self) -> float:
        """Best minus final robust accuracy over the measured epochs: robust overfitting. At least 0, by the choice."""
        return max(self.robust) - self.robust[-1]


def network_outcome(
    cell: NetworkCell,
    folder: Path,
    data_root: Path | None = None,
    download: bool = False,
    device: str | None = None,
) -> dict[str, Any]:
    """Trains one network in its own folder below ``folder``; an interrupted training is continued.

    Losses are those of an attack that keeps the largest of its iterates: lower bounds of the worst case.

    Returns:
        The fields of :class:`NetworkOutcome` but the cell.
    """
    split = data.load(cell.data, data_root, download=download)
    config = cell.config
    train_set = training_sets(config.dataset, config.run.seed, split)[0].load()
    test_set = split.test.subset(cell.test_size, 0).load()
    network = train_configured(
        config,
        folder / run_name(cell),
        split=split,
        quiet=True,
        device=device,
        measure=measurement(cell, train_set, test_set),
        measure_every=cell.measure_every,
    )
    rows = [row for row in network.history if row["measured"]]
    columns = {name: [row["measured"][name] for row in rows] for name in rows[0]["measured"]}
    return {"epochs": [row["epoch"] for row in rows], **columns}


def run_name(cell: NetworkCell) -> str:
    """The folder of a training, unlike that of any other cell: a run keeps the measurements it was made with."""
    digest = json_digest(asdict(cell), 8)
    return f"eps{cell.eps:.4g}-noise{cell.label_noise:g}-alpha{cell.alpha:g}-r{cell.r:g}-seed{cell.seed}-{digest}"


def measurement(cell: NetworkCell, train_set: Dataset, test_set: Dataset) -> Callable[[nn.Module], dict[str, float]]:
    """What :func:`fastat.training.train_configured` takes as ``measure``."""

    def measure(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        seen, unseen = train_set.to(device), test_set.to(device)
        options: dict[str, Any] = {"norm": cell.config.threat.norm, "seed": cell.seed}

        def losses(of: Dataset) -> Tensor:
            return adversarial_losses(
                model, of.pixels(), of.labels, cell.eps, attack=ATTACK, sample_ids=of.ids, **options
            )

        own = losses(seen)
        accuracy = evaluate_images(
            model, unseen, cell.config.threat.threat_model, attacks=[ATTACK], seed=cell.seed
        ).accuracy
        return {
            "in_sample": float(holistic_loss(own, cell.alpha, cell.r)),
            "mean": float(own.mean()),
            "test": float(losses(unseen).mean()),
            "clean": accuracy["clean"],
            "robust": accuracy[ATTACK],
        }

    return measure
