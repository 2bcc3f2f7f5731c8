"""The options of the experiment, their ranges, and the presets."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastat.theory.generalization.disappointment import LinearCell
from fastat.theory.generalization.fitting import WORSTS, Worst
from fastat.theory.generalization.linear import CORRUPTIONS, Problem
from fastat.theory.generalization.networks import NetworkCell
from fastat.training import check_config

_LEAST_RN = 1e-3
_NEEDED = ("n", "r_n", "linear_alphas", "linear_epses", "seeds")  # at least one of each
_SHARED = (
    "data", "model", "width", "train_size", "test_size", "epochs", "batch_size", "attack_steps", "lr", "measure_every",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """The linear models first, then the networks.

    Raises:
        ValueError: a value out of its range; the message names the field and the value.
    """

    seed: int = 0
    """Seed of the samples of the linear models."""
    samples: int = 1000
    """Samples drawn, and linear models trained, for every point of a curve."""
    dimension: int = 10
    """Dimension of the linear models."""
    separation: float = 1.0
    """Distance of the centre of a class from the origin."""
    radius: float = 2.5
    """Radius of the ball around it that the class fills evenly."""
    linear_eps: float = 0.3
    """Radius of the l2 attack on the linear models, in the unit of the separation."""
    n: tuple[int, ...] = (25, 50, 100, 200)
    """Sizes of the samples of the linear models."""
    r_n: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.5, 6.0)
    """The product r n at which HR is trained: r is this by the size of the sample."""
    corrupted: float = 0.1
    """Fraction of a sample that is corrupted in the curves against alpha."""
    linear_alphas: tuple[float, ...] = (0.0, 0.025, 0.05, 0.1, 0.15)
    """Values of alpha in these curves."""
    corrupted_n: int = 100
    """Size of the samples in these curves."""
    corrupted_r_n: float = 2.0
    """The product r n in the curves against alpha."""
    linear_epses: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)
    """Radii of the attack in the curve of the optimism of plain adversarial training."""
    data: str = "digits"
    """Images of the networks; see "fastat train"."""
    model: str = "mlp"
    """Network; see "fastat train"."""
    width: int | None = 128
    """Its width, where it can be chosen; of mlp, the units of a hidden layer."""
    eps: float = 0.1
    """Radius of the linf attack on the networks, pixels from 0 to 1."""
    epses: tuple[float, ...] = (0.0, 0.05, 0.15, 0.2)
    """Further radii, for the optimism of PGD training alone."""
    train_size: int | None = 300
    """Training images of a network, another random choice for each seed; all of them if not given."""
    test_size: int | None = None
    """Test images; all of them if not given."""
    epochs: int = 150
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step."""
    attack_steps: int = 5
    """Steps of PGD in training."""
    lr: float = 0.1
    """Learning rate, divided by ten at half and at three quarters of the training."""
    label_noise: float = 0.1
    """Fraction of the training labels that is wrong in the runs with poisoned labels."""
    r: tuple[float, ...] = (0.05, 0.1, 0.2)
    """HR networks: values of r, with alpha = 0."""
    alpha: tuple[float, ...] = (0.05, 0.1)
    """HR networks: values of alpha, with r = 0."""
    all_errors: tuple[float, float] = (0.1, 0.1)
    """HR networks: alpha and r against all errors at once."""
    measure_every: int = 10
    """Epochs between two measurements of a network."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the networks: of the training images, the wrong labels, the weights and the order."""

    def __post_init__(self) -> None:
        _check_linear(self)
        _check_networks(self)


def _check_linear(settings: Settings) -> None:
    _each(settings, ("samples",), lambda v: v >= 2, "at least 2")
    _each(settings, ("dimension",), lambda v: v >= 2, "at least 2")
    _each(settings, ("separation", "radius"), lambda v: 0 < v < math.inf, "finite and above 0")
    _each(settings, ("linear_eps", "linear_epses"), lambda v: 0 <= v < math.inf, "finite and at least 0")
    _each(settings, ("n", "corrupted_n"), lambda v: v >= 2, "at least 2")
    _each(settings, ("r_n", "corrupted_r_n"), lambda v: _LEAST_RN <= v < math.inf, f"finite and at least {_LEAST_RN}")
    _each(settings, ("corrupted", "linear_alphas"), lambda v: 0 <= v < 1, "in [0, 1)")
    _distinct(settings, ("n", "r_n", "linear_alphas", "linear_epses"))


def _check_networks(settings: Settings) -> None:
    _each(settings, ("measure_every",), lambda v: v >= 1, "at least 1")
    _each(settings, ("r",), lambda v: v > 0, "above 0: PGD training, r = 0, is always there")
    _each(settings, ("alpha",), lambda v: v > 0, "above 0: PGD training, alpha = 0, is always there")
    _each(settings, ("label_noise",), lambda v: 0 < v < 1, "in (0, 1): runs without wrong labels are always there")
    _each(settings, ("test_size",), lambda v: v is None or v >= 1, "at least 1")
    _each(settings, ("all_errors",), lambda v: v > 0, "above 0")
    _distinct(settings, ("epses", "r", "alpha", "seeds"))
    if settings.eps in settings.epses:
        raise ValueError(f"epses must leave out eps, which is always there, got {settings.epses}")
    for cell in network_cells(settings):
        check_config(cell.config)


def _each(settings: Settings, fields: Sequence[str], holds: Callable[[Any], bool], rule: str) -> None:
    for field in fields:
        value = getattr(settings, field)
        if not all(holds(one) for one in (value if isinstance(value, tuple) else (value,))):
            raise ValueError(f"{field} must be {rule}, got {value}")


def _distinct(settings: Settings, fields: Sequence[str]) -> None:
    for field in fields:
        value = getattr(settings, field)
        if len(set(value)) < max(len(value), field in _NEEDED):
            raise ValueError(
                f"{field} must be different numbers, at least {int(field in _NEEDED)} of them, got {value}"
            )


def rate_cells(settings: Settings) -> list[LinearCell]:
    """Plain adversarial training at every n, then HR with either worst case at every n and r n; nothing corrupted."""
    plain = [_linear(settings, n, 0.0, 0.0, "sample") for n in settings.n]
    hr = [_linear(settings, n, 0.0, r_n / n, worst) for worst in WORSTS for n in settings.n for r_n in settings.r_n]
    return plain + hr


def corruption_cells(settings: Settings) -> list[LinearCell]:
    """HR with either worst case at every alpha, on samples with flipped labels and on samples with hidden points."""
    n = settings.corrupted_n
    return [
        replace(
            _linear(settings, n, alpha, settings.corrupted_r_n / n, worst),
            corruption=corruption,
            fraction=settings.corrupted,
        )
        for corruption in CORRUPTIONS[1:]
        for worst in WORSTS
        for alpha in settings.linear_alphas
    ]


def optimism_cells(settings: Settings) -> list[LinearCell]:
    """Plain adversarial training at every n and every radius of the attack."""
    plain = [_linear(settings, n, 0.0, 0.0, "sample") for n in settings.n]
    return [replace(cell, problem=replace(cell.problem, eps=eps)) for cell in plain for eps in settings.linear_epses]


def network_cells(settings: Settings) -> list[NetworkCell]:
    """Every training with right and with poisoned labels at eps, and PGD training at the further radii; by seed."""
    trainings = [
        (noise, *budget, settings.eps) for noise in (0.0, settings.label_noise) for budget in budgets(settings)
    ]
    trainings += [(0.0, 0.0, 0.0, eps) for eps in settings.epses]
    shared = {field: getattr(settings, field) for field in _SHARED}
    return [
        NetworkCell(**shared, label_noise=noise, alpha=alpha, r=r, eps=eps, seed=seed)
        for seed in settings.seeds
        for noise, alpha, r, eps in trainings
    ]


def budgets(settings: Settings) -> list[tuple[float, float]]:
    """(alpha, r) of the trainings: PGD training, HR against one error alone, HR against all."""
    return [
        (0.0, 0.0),
        *((0.0, r) for r in settings.r),
        *((alpha, 0.0) for alpha in settings.alpha),
        settings.all_errors,
    ]


def _linear(settings: Settings, n: int, alpha: float, r: float, worst: Worst) -> LinearCell:
    problem = Problem(settings.dimension, settings.separation, settings.radius, settings.linear_eps)
    return LinearCell(problem, n, alpha, r, worst, "none", 0.0, settings.samples, settings.seed)


PRESETS: dict[str, Settings] = {
    "quick": Settings(),
    "paper": Settings(
        samples=10_000,
        n=(25, 50, 100, 200, 400, 800),
        r_n=(0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),
        linear_alphas=(0.0, 0.025, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2),
        linear_epses=(0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
        data="cifar10",
        model="preact_resnet18",
        width=None,
        eps=8 / 255,
        epses=(0.0, 2 / 255, 4 / 255, 12 / 255),
        train_size=None,
        test_size=2000,
        epochs=200,
        batch_size=128,
        attack_steps=10,
        seeds=(0, 1, 2),
    ),
}
"""quick: minutes on two cores; its epochs, width and learning rate were set after trial runs evaluated on test images
too, as those where PGD training overfits. paper: the setting of the paper's experiments on images, days of a GPU."""
