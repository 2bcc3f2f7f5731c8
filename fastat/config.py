"""What a training run is: plain data with a default for every dataset."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fastat import data, models
from fastat.objectives.benign import POSITIVES, Positives
from fastat.objectives.holistic import ORDERS, Order
from fastat.protocols import PROTOCOLS, AttackName, ObjectiveName, ProtocolName


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training run; where it runs and is saved is not part of it."""

    data: str = "digits"
    """digits, mnist, cifar10, or folder:PATH with PATH/train/<class>/* and PATH/test/<class>/*."""
    model: str = "small_cnn"
    """small_cnn, preact_resnet18, wide_resnet_28_10 or wide_resnet_34_10."""
    width: int | None = None
    """Channels of the first stage of small_cnn, 32 if not given; the other networks have fixed widths."""
    protocol: ProtocolName = "pgd-at"
    """Name that sets attack, objective or both; train --protocol NAME --help shows what."""
    attack: AttackName = "pgd"
    """Attack of the training."""
    objective: ObjectiveName = "cross-entropy"
    """Loss on the attacked batch: its mean, TRADES, MART, the holistically robust one (HR), the benign one (BAT)."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the perturbation."""
    eps: float = 0.1
    """Radius of the perturbation, pixels from 0 to 1."""
    attack_steps: int = 10
    """Steps of the training attacks pgd and pgd-kl (which ascends TRADES' divergence); the others take one."""
    step_size: float | None = None
    """Step of the training attack, in the unit of eps; if not given 2.5 eps / steps, 1.25 eps for rs-fgsm, else eps."""
    attack_mode: Literal["eval", "train"] = "eval"
    """Mode of the network under attack; in eval mode batch norm keeps its statistics clear of the attack's iterates."""
    trades_beta: float = 6.0
    """TRADES: weight of the divergence between clean and attacked predictions."""
    mart_lambda: float = 5.0
    """MART: weight of the divergence on images that are not predicted surely."""
    grad_align: float = 0.0
    """Weight of GradAlign, which keeps the network linear within eps; 0 leaves it out. Costs a second derivative."""
    awp: float = 0.0
    """Adversarial weight perturbation: the weights' relative size of a worst step (5e-3 in its paper); 0: none."""
    alpha: float = 0.05
    """HR: the fraction of the training data that may be wrong, in [0, 1)."""
    r: float = 0.1
    """HR: how far, in Kullback-Leibler divergence, the data may be from the distribution they were drawn from."""
    order: Order = "hd"
    """HR: hd guards against wrong data first, then against the divergence; hr the other way round."""
    gamma: float = 1.0
    """BAT: how much less a misclassified sample weighs: exp(-gamma * the probability of the wrong class)."""
    beta: float = 0.2
    """BAT: factor of the loss that draws the features of a class together."""
    tau: float = 0.1
    """BAT: temperature of that loss."""
    positives: Positives = "outside"
    """BAT: whether that loss averages a sample's positives outside or inside of the logarithm."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 0.1
    """Peak of the learning rate."""
    schedule: Literal["cyclic", "cosine", "piecewise"] = "cyclic"
    """cyclic: straight up from 0 for two fifths of the run, then straight down to 0; cosine: from the peak to 0;
    piecewise: the peak, a tenth of it from half of the run on, a hundredth from three quarters on."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter, through SGD."""
    augment: Literal["none", "crop", "crop-flip"] = "none"
    """crop: zero-pad by 4 pixels and cut out at random; crop-flip: also mirror half of the images."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: the network runs under autocast; auto: bf16 on a GPU that has it, else fp32."""
    seed: int = 0
    """Seed of the weights, the order, the augmentation and the attacks."""
    train_size: int | None = None
    """Train on a random choice of so many images; all of them if not given."""
    label_noise: float = 0.0
    """Fraction of the training labels that are replaced by another class, drawn uniformly; test labels are not."""
    eval_size: int | None = None
    """Judge the trained network on a random choice of so many test images; if not given, all on a GPU, 500 on a CPU."""
    monitor_size: int = 256
    """Test images for the curves during training. Nothing is chosen by them: the last network is the result."""


def default_config(data: str, protocol: str = "pgd-at", **changes: Any) -> TrainConfig:
    """The settings that are worth starting from for a dataset and a protocol, with some of them changed.

    digits: under a minute on two CPU cores. mnist: eps 0.3, the threat model of Madry et al. (2018). cifar10: eps
    8/255, PreAct ResNet-18, 30 epochs of the cyclic schedule (Wong et al. 2020); ``folder:PATH`` starts from the same.

    Raises:
        TypeError: a change that is no field of :class:`TrainConfig`.
        ValueError: an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
    by_data = _DEFAULTS.get(data.split(":", 1)[0], {})
    return TrainConfig(**{"data": data, "protocol": protocol, **by_data, **PROTOCOLS[protocol], **changes})


_CIFAR: dict[str, Any] = {
    "model": "preact_resnet18",
    "eps": 8 / 255,
    "epochs": 30,
    "lr": 0.2,
    "augment": "crop-flip",
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mnist": {"eps": 0.3, "epochs": 5},
    "cifar10": _CIFAR,
    "folder": _CIFAR,
}


def check_config(config: TrainConfig) -> None:
    """Raises ValueError if a value is out of its range; the message names the field and the value."""
    datasets = f"{', '.join(data.names())} or folder:PATH"
    _check(config, "data", config.data in data.names() or config.data.startswith("folder:"), datasets)
    _check(config, "model", config.model in models.names(), f"one of {', '.join(models.names())}")
    fixed_width = config.model not in models.WITH_WIDTH
    _check(config, "width", config.width is None or not fixed_width, f"left out for {config.model}")
    _check_protocol(config)
    _check(config, "norm", config.norm in ("linf", "l2", "l1"), "linf, l2 or l1")
    _check(config, "attack_mode", config.attack_mode in ("eval", "train"), "eval or train")
    _check(config, "schedule", config.schedule in ("cyclic", "cosine", "piecewise"), "cyclic, cosine or piecewise")
    _check(config, "precision", config.precision in ("auto", "fp32", "bf16"), "auto, fp32 or bf16")
    _check(config, "augment", config.augment in data.AUGMENTATIONS, f"one of {', '.join(data.AUGMENTATIONS)}")
    for field in (
        "eps",
        "momentum",
        "weight_decay",
        "r",
        "gamma",
        "beta",
        "trades_beta",
        "mart_lambda",
        "grad_align",
        "awp",
    ):
        value = getattr(config, field)
        _check(config, field, math.isfinite(value) and value >= 0, "a finite number >= 0")
    for field in ("lr", "tau"):
        value = getattr(config, field)
        _check(config, field, math.isfinite(value) and value > 0, "a finite number above 0")
    for field in ("alpha", "label_noise"):
        _check(config, field, 0 <= getattr(config, field) < 1, "in [0, 1)")
    _check(config, "step_size", config.step_size is None or config.step_size > 0, "above 0")
    _check(config, "nesterov", not config.nesterov or config.momentum > 0, "off where momentum is 0")
    _check(config, "batch_size", config.batch_size >= 2, "at least 2: batch norm needs two images")
    _check(config, "train_size", config.train_size is None or config.train_size >= 2, "at least 2")
    for field in ("attack_steps", "epochs", "monitor_size", "eval_size", "width"):
        value = getattr(config, field)
        _check(config, field, value is None or value >= 1, "at least 1")


def differing_fields(old: dict[str, Any], new: TrainConfig) -> list[str]:
    """Descriptions "field: old -> new" of where a saved configuration differs; a field it lacks had its default."""
    current = dataclasses.asdict(new)
    old = {**dataclasses.asdict(TrainConfig()), **old}
    return [
        f"{field}: {old.get(field)!r} -> {current.get(field)!r}"
        for field in sorted(old.keys() | current.keys())
        if old.get(field) != current.get(field)
    ]


def _check_protocol(config: TrainConfig) -> None:
    """What a protocol's name says must hold: a configuration made with the name alone would train something else."""
    names = {"protocol": tuple(PROTOCOLS), "attack": get_args(AttackName), "objective": get_args(ObjectiveName)}
    for field, known in names.items():
        _check(config, field, getattr(config, field) in known, f"one of {', '.join(known)}")
    for field, value in PROTOCOLS[config.protocol].items():
        if field not in names:  # a number, which is free
            continue
        rule = f"{value} under protocol {config.protocol} (default_config sets it)"
        _check(config, field, getattr(config, field) == value, rule)
    _check(config, "order", config.order in ORDERS, "hd or hr")
    _check(config, "positives", config.positives in POSITIVES, "outside or inside")


def _check(config: TrainConfig, field: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ValueError(f"{field} must be {rule}, got {getattr(config, field)!r}")
