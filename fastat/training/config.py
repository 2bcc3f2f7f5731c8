"""What a training run is: a part for each room. Only the command line and the run folder see all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastat.data import DataConfig
from fastat.models import ModelConfig
from fastat.protocols import ProtocolConfig, protocol_of
from fastat.support.files.foreign_json import shortly
from fastat.support.threat import Norm, ThreatModel

OptimizerName = Literal["sgd", "adam", "adamw"]
ScheduleName = Literal["cyclic", "cosine", "multistep", "one-cycle", "constant"]


class ConfigError(ValueError):
    """A value of a configuration is out of its range.

    Attributes:
        field: the name of the field.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True)
class ThreatConfig:
    """Which perturbations are defended against."""

    norm: Norm = "linf"
    """Norm of the perturbation."""
    eps: float = 0.1
    """Radius of the perturbation, pixels from 0 to 1."""
    box: bool = True
    """Attacked images stay within [0, 1]; --no-box is for data that leave it."""

    @property
    def threat_model(self) -> ThreatModel:
        """The same as attacks take it."""
        return ThreatModel(self.norm, self.eps, (0.0, 1.0) if self.box else None)


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights move, for how long, and which average of them is kept."""

    epochs: int = 20
    """Passes over the training images; those of attack free count its replays, so equal epochs are equal steps."""
    batch_size: int = 128
    """Images per step."""
    optimizer: OptimizerName = "sgd"
    """sgd, adam or adamw, the latter two with torch's own betas and eps."""
    lr: float = 0.1
    """Peak of the learning rate."""
    schedule: ScheduleName = "cyclic"
    """cyclic: straight up from 0 to the peak, then straight down to 0; cosine: from the peak to 0; multistep: the peak,
    a tenth of what it was at every milestone; one-cycle: a cosine up, then one down; constant."""
    peak: float | None = None
    """Fraction of the run at which cyclic or one-cycle is at its peak; if not given 0.4 and 0.3."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Fractions of the run at which multistep drops."""
    momentum: float = 0.9
    """Momentum of SGD."""
    peak_momentum: float | None = None
    """Momentum of SGD at the peak of cyclic: straight there from what it is at the start, and straight back, as in
    torch's CyclicLR (0.8 in the code of fast adversarial training); if not given it stays."""
    nesterov: bool = False
    """Nesterov's form of the momentum."""
    weight_decay: float = 5e-4
    """L2 penalty on the parameters, through the gradient; of adamw the decay beside it."""
    exempt_norm_and_bias: bool = False
    """No weight decay on biases and on the scales and shifts of normalizations."""
    clip_grad: float = 0.0
    """Largest norm of the gradient of all parameters together, longer ones are scaled down to it; 0: no limit."""
    average: Literal["none", "ema", "swa"] = "none"
    """Average of the weights to evaluate and keep: ema, exponential over the steps; swa, equal over the epochs."""
    ema_decay: float = 0.995
    """Decay of ema per step, less at the start."""
    swa_start: float = 0.5
    """Fraction of the run after which swa averages."""
    eps_warmup: float = 0.0
    """Epochs over which the radius of the training attack grows straight up from 0."""
    awp_warmup: float = 0.0
    """Epochs at the start that go without adversarial weight perturbation."""


@dataclass(frozen=True)
class RunConfig:
    """How a run is computed, watched, ended and measured."""

    seed: int = 0
    """Seed of the weights, the order, the augmentation and the attacks."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: the network runs under autocast; auto: bf16 on a GPU that has it, else fp32."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory layout in which a GPU's convolutions are fast; auto: on a GPU."""
    compile: bool = False
    """Run the network through torch.compile: minutes at the start, faster steps after."""
    sync_bn: bool = False
    """Batch norm over the batch of all processes; GPUs only."""
    find_unused_parameters: bool = False
    """For several processes and a network that leaves parameters out in some steps (layer drop, experts): gradients are
    averaged after the backward pass, not by DistributedDataParallel, which would wait for those that are missing."""
    select: Literal["best", "last"] = "best"
    """Network to keep: of the epoch with the best PGD-20 accuracy on the images set apart, or of the last epoch."""
    patience: int | None = None
    """Stop after so many epochs without a better one; if not given, never."""
    on_collapse: Literal["warn", "stop", "rollback"] = "warn"
    """What to do about catastrophic overfitting: only report it; stop; or go back to the last weights that were found
    sound, and on with the batches that come next."""
    eval_size: int | None = None
    """Evaluate the trained network on a random choice of so many test images; if not given, 500 on a CPU, all on a GPU
    (5000 of imagenet)."""


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides the outcome of a training run; where it runs and is saved is not part of it.

    The fields of the parts have different names, so that command lines, files and :func:`with_fields` name them alone.
    """

    method: ProtocolConfig = field(default_factory=ProtocolConfig)
    dataset: DataConfig = field(default_factory=DataConfig)
    network: ModelConfig = field(default_factory=ModelConfig)
    threat: ThreatConfig = field(default_factory=ThreatConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: RunConfig = field(default_factory=RunConfig)


_PARTS: dict[str, type] = get_type_hints(TrainConfig)
_PART_OF = {one.name: part for part, kind in _PARTS.items() for one in dataclasses.fields(kind)}


def as_fields(config: TrainConfig) -> dict[str, Any]:
    """All fields of all parts by their names: what config.json holds."""
    return {name: getattr(getattr(config, part), name) for name, part in _PART_OF.items()}


def with_fields(config: TrainConfig, **changes: Any) -> TrainConfig:
    """The configuration with some fields of its parts changed: ``with_fields(config, eps=8 / 255, epochs=30)``.

    Raises:
        TypeError: a change that is no field of a part.
    """
    if unknown := sorted(changes.keys() - _PART_OF.keys()):
        raise TypeError(f"not fields of a configuration: {', '.join(unknown)}")
    parts: dict[str, dict[str, Any]] = {}
    for name, value in changes.items():
        parts.setdefault(_PART_OF[name], {})[name] = value
    return dataclasses.replace(
        config, **{part: dataclasses.replace(getattr(config, part), **own) for part, own in parts.items()}
    )


def config_from(saved: Mapping[str, Any]) -> TrainConfig:
    """The configuration in a config.json or a checkpoint; a field it lacks has its default.

    Raises:
        ValueError: it is no mapping, or has a field that no configuration has, or a value of another type.
    """
    if not isinstance(saved, Mapping):
        raise ValueError(f"a configuration must be an object of fields, got {type(saved).__name__}")
    if unknown := sorted(map(str, saved.keys() - _PART_OF.keys())):
        raise ValueError(f"not fields of a configuration: {', '.join(shortly(name)[1:-1] for name in unknown[:5])}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in saved.items()}  # JSON's lists
    config = with_fields(TrainConfig(), **values)
    check_types(config)
    return config


def describe_training(config: TrainConfig) -> str:
    """The training in the words of a title: "PGD-10 adversarial training", "HR (alpha 0.05, r 0.1) on N-FGSM"."""
    average, noise = config.optimizer.average, config.dataset.label_noise
    text = str(protocol_of(config.method, config.threat.threat_model))
    text += f" with {average.upper()}" if average != "none" else ""
    return text + (f", {100 * noise:g}% of the training labels flipped" if noise else "")


def check_types(config: TrainConfig) -> None:
    """Raises :class:`ConfigError` for a value of another type than its field's."""
    for name in _PARTS:
        check_part(getattr(config, name))


def check_part(part: Any) -> None:
    """The same of one part."""
    for name, kind in get_type_hints(type(part)).items():
        value = getattr(part, name)
        check(_fits(value, kind), name, value, _rule(kind))


def check(holds: bool, name: str, value: object, rule: str) -> None:
    """Raises :class:`ConfigError` that the field must be what the rule says, unless it holds."""
    if not holds:
        raise ConfigError(name, f"{name} must be {rule}, got {shortly(value)}")


def _rule(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    name = getattr(kind, "__name__", str(kind)) if get_origin(kind) is None else str(kind)
    return f"of type {name.replace('NoneType', 'None')}"


def _fits(value: object, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(part, float) for part in value)
    if get_origin(kind) is UnionType:
        return any(_fits(value, option) for option in get_args(kind))
    if kind in (int, float) and isinstance(value, bool):
        return False
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return False
    return isinstance(value, (int, float) if kind is float else kind)
