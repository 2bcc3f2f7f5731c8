"""What a run's files say of it, whatever it was made from: a configuration, or a caller's objects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from fastat.protocols import Protocol
from fastat.support.threat import Bounds, ThreatModel
from fastat.training.config import (
    ConfigError,
    OptimizerConfig,
    OptimizerName,
    RunConfig,
    ScheduleName,
    TrainConfig,
    as_fields,
    check_part,
    config_from,
    describe_training,
)
from fastat.training.in_words import said

_OBJECTS = "objects"
_TEXTS = ("model", "data", "protocol", "norm")
_NAMES = {"optimizer": get_args(OptimizerName), "schedule": get_args(ScheduleName)}


@dataclass(frozen=True)
class Record:
    """What is written down of a run.

    Attributes:
        fields: the content of config.json.
        training: in the words of a title, "PGD-10 adversarial training".
        threat: the perturbations that it is watched and measured under.
        optimizer: how long it is, and more; names of it that ``fields`` has otherwise are functions of the caller's.
        run: how it is computed, watched and ended.
    """

    fields: Mapping[str, Any]
    training: str
    threat: ThreatModel
    optimizer: OptimizerConfig
    run: RunConfig

    @property
    def of_objects(self) -> bool:
        """Whether it was made of objects, which no file can bring back."""
        return _OBJECTS in self.fields


def record_of(config: TrainConfig) -> Record:
    """That of a configuration."""
    threat = config.threat.threat_model
    return Record(as_fields(config), describe_training(config), threat, config.optimizer, config.run)


def record_of_objects(
    protocol: Protocol, threat: ThreatModel, optimizer: OptimizerConfig, run: RunConfig, given: Mapping[str, Any]
) -> Record:
    """That of a run of objects; ``given`` are further fields, and those of the settings that are functions."""
    fields = {
        _OBJECTS: True,
        "protocol": str(protocol),
        **{part.name: said(getattr(protocol, part.name)) for part in dataclasses.fields(protocol)},
        **dataclasses.asdict(threat),
        **dataclasses.asdict(optimizer),
        **dataclasses.asdict(run),
        **given,
    }
    return _of_fields({name: said(value) for name, value in fields.items()})  # no tuples: JSON has none


def record_from(saved: Mapping[str, Any]) -> Record:
    """That in a config.json or a checkpoint.

    Raises:
        ValueError: it is none; the message says what is wrong.
    """
    if isinstance(saved, Mapping) and _OBJECTS in saved:
        return _of_fields(saved)
    return record_of(config_from(saved))


def _of_fields(fields: Mapping[str, Any]) -> Record:
    if wrong := [name for name in _TEXTS if not isinstance(fields.get(name), str)]:
        raise ValueError(f"{wrong[0]} must be a string, got {fields.get(wrong[0])!r}")
    plain = {name: value for name, value in fields.items() if value in _NAMES.get(name, (value,))}
    if plain.get("lr") is None:  # an optimizer of one's own has its own
        plain.pop("lr", None)
    optimizer, run = (_part(kind, plain) for kind in (OptimizerConfig, RunConfig))
    eps, norm, bounds = fields.get("eps"), fields["norm"], fields.get("bounds")
    if isinstance(eps, bool) or not isinstance(eps, int | float):
        raise ValueError(f"eps must be a number, got {eps!r}")
    average = f" with {optimizer.average.upper()}" if optimizer.average != "none" else ""
    threat = ThreatModel(norm, float(eps), _bounds(bounds))
    return Record(dict(fields), fields["protocol"] + average, threat, optimizer, run)


def _part(kind: type, fields: Mapping[str, Any]) -> Any:
    names = [one.name for one in dataclasses.fields(kind) if one.name in fields]
    values = {name: tuple(fields[name]) if isinstance(fields[name], list) else fields[name] for name in names}
    made = kind(**values)
    try:
        check_part(made)
    except ConfigError as error:
        raise ValueError(str(error)) from error
    return made


def _bounds(saved: Any) -> Bounds:
    numbers = isinstance(saved, list) and len(saved) == 2 and all(isinstance(end, int | float | None) for end in saved)
    if saved is not None and not numbers:
        raise ValueError(f"bounds must be null or two numbers, got {saved!r}")
    return None if saved is None else (saved[0], saved[1])
