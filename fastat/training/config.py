"""What a training run is: plain data with a default for every dataset."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastat import data, models
from fastat.objectives.benign import Positives
from fastat.objectives.holistic import Order
from fastat.protocols import PROTOCOLS, AttackName, LossName, ObjectiveName, ProtocolName
from fastat.support.files import differences
from fastat.support.threat import Bounds

Schedule = Literal["cyclic", "cosine", "multistep", "one-cycle"]


class ConfigError(ValueError):
    """A value of a configuration is out of its range.

    Attributes:
        field: the name of the field.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training run; where it runs and is saved is not part of it."""

    protocol: ProtocolName = "pgd-at"
    """Name that sets attack, objective or both; "fastat train NAME --help" shows what."""
    data: str = "digits"
    """digits, mnist, fashion-mnist, cifar10, cifar100, svhn, tiny-imagenet, imagenet, tensors:FILE.npz, or folder:PATH
    with PATH/train/<class>/* and PATH/test/<class>/*."""
    model: str = "small_cnn"
    """small_cnn, mlp, preact_resnet18, _34, _50, wide_resnet_28_10, _34_10, _34_20, timm:NAME or torchvision:NAME."""
    width: int | None = None
    """Channels of the first stage of small_cnn (32 if not given), units of mlp (256); the others have fixed widths."""
    attack: AttackName = "pgd"
    """Attack of the training."""
    loss: LossName = "cross-entropy"
    """Loss of each attacked image: its cross-entropy, or that of TRADES or MART with the clean image."""
    objective: ObjectiveName = "mean"
    """What is descended of the losses of a batch: their mean, the holistically robust one (HR), the benign (BAT)."""
    norm: Literal["linf", "l2", "l1"] = "linf"
    """Norm of the perturbation."""
    eps: float = 0.1
    """Radius of the perturbation, pixels from 0 to 1."""
    box: bool = True
    """Keep attacked images within [0, 1]; not for data that leave it."""
    attack_steps: int = 10
    """Steps of the training attacks pgd and pgd-kl (which ascends TRADES' divergence); the others take one."""
    step_size: float | None = None
    """Step of the training attack, in the unit of eps; if not given 2.5 eps / steps, 1.25 eps for rs-fgsm, else eps."""
    attack_mode: Literal["eval", "train"] = "train"
    """Mode of the network under attack, as in the protocol's paper; in eval mode batch norm keeps its statistics clear
    of the attack's iterates. Attack free has no pass of its own, so no mode."""
    replays: int = 8
    """Attack free: steps on each batch in a row, each of which moves the weights and the perturbation."""
    label_smoothing: float = 0.0
    """Share of the target of the cross-entropy (in TRADES of its first term) that is spread evenly over the classes.
    Attacks ascend the loss of the true labels."""
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
    average: Literal["none", "ema", "swa"] = "none"
    """Average of the weights that is judged and kept: ema, exponential over the steps; swa, equal over the epochs."""
    ema_decay: float = 0.995
    """Decay of ema per step, less at the start."""
    swa_start: float = 0.5
    """Fraction of the run after which swa averages."""
    epochs: int = 20
    """Passes over the training images; those of attack free count its replays, so equal epochs are equal steps."""
    batch_size: int = 128
    """Images per step."""
    lr: float = 0.1
    """Peak of the learning rate."""
    schedule: Schedule = "cyclic"
    """cyclic: straight up from 0 for two fifths of the run, then straight down to 0; cosine: from the peak to 0;
    multistep: the peak, a tenth of what it was at every milestone; one-cycle: a cosine up, then one down."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Fractions of the run at which multistep drops."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 5e-4
    """L2 penalty on the parameters, through SGD."""
    exempt_norm_and_bias: bool = False
    """No weight decay on biases and on the scales and shifts of normalizations."""
    clip_grad: float = 0.0
    """Largest norm of the gradient of all parameters together, longer ones are scaled down to it; 0: no limit."""
    augment: Literal["none", "crop", "crop-flip"] = "none"
    """crop: zero-pad by 4 pixels and cut out at random (imagenet: a random part at 224 pixels); crop-flip: also mirror
    half of the images."""
    cutout: int = 0
    """Side in pixels of a square at a random place that is blacked out; 0: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: the network runs under autocast; auto: bf16 on a GPU that has it, else fp32."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory layout in which a GPU's convolutions are fast; auto: on a GPU."""
    compile: bool = False
    """Run the network through torch.compile: minutes at the start, faster steps after."""
    sync_bn: bool = False
    """Batch norm over the batch of all processes; GPUs only."""
    seed: int = 0
    """Seed of the weights, the order, the augmentation and the attacks."""
    train_size: int | None = None
    """Train on a random choice of so many images; all of them if not given."""
    label_noise: float = 0.0
    """Fraction of the training labels that are replaced by another class, drawn uniformly; test labels are not."""
    val_size: int = 128
    """Training images set apart, the same for every seed, to watch the run and choose its best epoch by; 0: none."""
    select: Literal["best", "last"] = "best"
    """Network to keep: of the epoch with the best PGD-20 accuracy on the images set apart, or of the last epoch."""
    patience: int | None = None
    """Stop after so many epochs without a better one; if not given, never."""
    on_collapse: Literal["warn", "stop", "rollback"] = "warn"
    """What to do about catastrophic overfitting: only report it; stop; or go back to the last weights that were found
    sound, and on with the batches that come next."""
    eval_size: int | None = None
    """Judge the trained network on a random choice of so many test images; if not given, 500 on a CPU, all on a GPU
    (5000 of imagenet)."""

    @property
    def bounds(self) -> Bounds:
        """The box of the attacks."""
        return (0.0, 1.0) if self.box else None


def default_config(data: str, protocol: ProtocolName = "pgd-at", **changes: Any) -> TrainConfig:
    """The settings that are worth starting from for a dataset and a protocol, with some of them changed.

    digits: about a minute on two CPU cores. mnist: eps 0.3, the threat model of Madry et al. (2018). cifar10: eps
    8/255, PreAct ResNet-18, 30 epochs of the cyclic schedule (Wong et al. 2020); the other colour images start from the
    same, svhn with the lower learning rate of de Jorge et al. (2022), imagenet with ResNet-50 and eps 4/255.

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
    "val_size": 1000,
}
_MNIST: dict[str, Any] = {"eps": 0.3, "epochs": 5, "val_size": 1000}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "mnist": _MNIST,
    "fashion-mnist": {**_MNIST, "eps": 0.1},
    "cifar10": _CIFAR,
    "cifar100": _CIFAR,
    "svhn": {**_CIFAR, "lr": 0.05, "augment": "none"},
    "tiny-imagenet": _CIFAR,
    "imagenet": {**_CIFAR, "model": "torchvision:resnet50", "eps": 4 / 255, "batch_size": 256},
    "folder": {**_CIFAR, "val_size": 100},
    "tensors": {**_CIFAR, "val_size": 100, "augment": "none"},
}


def check_config(config: TrainConfig) -> None:
    """Raises :class:`ConfigError` if a value is out of its range; the message names the field and the value."""
    _check_types(config)
    for field, check in (("data", data.check_name), ("model", models.check_name)):
        try:
            check(getattr(config, field))
        except ValueError as error:
            raise ConfigError(field, str(error)) from error
    fixed_width = config.model not in models.WITH_WIDTH
    _check(config, "width", config.width is None or not fixed_width, f"left out for {config.model}")
    _check_protocol(config)
    for field in _AT_LEAST_0:
        value = getattr(config, field)
        _check(config, field, math.isfinite(value) and value >= 0, "a finite number >= 0")
    for field in ("lr", "tau"):
        value = getattr(config, field)
        _check(config, field, math.isfinite(value) and value > 0, "a finite number above 0")
    for field in ("alpha", "label_noise", "label_smoothing", "ema_decay", "swa_start"):
        _check(config, field, 0 <= getattr(config, field) < 1, "in [0, 1)")
    _check(config, "step_size", config.step_size is None or 0 < config.step_size < math.inf, "finite and above 0")
    _check(config, "nesterov", not config.nesterov or config.momentum > 0, "off where momentum is 0")
    steps = config.milestones
    _check(config, "milestones", list(steps) == sorted(steps) and all(0 < t < 1 for t in steps), "rising, in (0, 1)")
    _check(config, "label_smoothing", config.loss != "mart" or config.label_smoothing == 0, "0 for the loss of mart")
    _check(config, "batch_size", config.batch_size >= 2, "at least 2: batch norm needs two images")
    _check(config, "train_size", config.train_size is None or config.train_size >= 2, "at least 2")
    _check(config, "patience", config.patience is None or config.val_size > 0, "left out where val_size is 0")
    for field in ("attack_steps", "replays", "epochs", "patience", "eval_size", "width"):
        value = getattr(config, field)
        _check(config, field, value is None or value >= 1, "at least 1")


def config_from(saved: Mapping[str, Any]) -> TrainConfig:
    """The configuration in a config.json or a checkpoint; a field it lacks has its default.

    Raises:
        ValueError: it is no mapping, or has a field that no configuration has, or a value of another type.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"a configuration must be an object of fields, got {type(saved).__name__}")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if unknown := sorted(saved.keys() - known):
        raise ValueError(f"not fields of a configuration: {', '.join(unknown)}")
    values: dict[str, Any] = {
        field: tuple(value) if isinstance(value, list) else value for field, value in saved.items()
    }  # JSON has lists only
    config = TrainConfig(**values)
    _check_types(config)
    return config


def differing_fields(old: TrainConfig, new: TrainConfig) -> list[str]:
    """Descriptions "field: old -> new" of where two configurations differ."""
    return differences(dataclasses.asdict(old), dataclasses.asdict(new))


def _check_protocol(config: TrainConfig) -> None:
    """What a protocol's name says must hold: a configuration made with the name alone would train something else.

    A name that sets the objective leaves attack and loss free, one that sets the loss the attack.
    """
    sets = PROTOCOLS[config.protocol]
    named = {"objective": "mean", "loss": "cross-entropy", "attack": "pgd", **sets}
    for field in ("objective", "loss", "attack"):
        rule = f"{named[field]} under protocol {config.protocol} (default_config sets it)"
        _check(config, field, getattr(config, field) == named[field], rule)
        if field in sets:
            break
    _check(config, "grad_align", config.protocol != "gradalign" or config.grad_align > 0, "above 0 under gradalign")


def _check_types(config: TrainConfig) -> None:
    for field, kind in get_type_hints(TrainConfig).items():
        name = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
        literal = get_origin(kind) is Literal
        rule = f"one of {', '.join(get_args(kind))}" if literal else f"of type {name.replace('NoneType', 'None')}"
        _check(config, field, _fits(getattr(config, field), kind), rule)


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(part, float) for part in value)
    if get_origin(kind) is UnionType:
        return any(_fits(value, option) for option in get_args(kind))
    if kind in (int, float) and isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)


def _check(config: TrainConfig, field: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(field, f"{field} must be {rule}, got {getattr(config, field)!r}")


_AT_LEAST_0 = (
    "eps", "momentum", "weight_decay", "r", "gamma", "beta", "trades_beta", "mart_lambda", "grad_align", "awp",
    "clip_grad", "cutout", "val_size",
)  # fmt: skip
