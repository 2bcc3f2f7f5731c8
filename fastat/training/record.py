"""What a run's files say of it, whatever it was made from: a configuration, or a caller's objects."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fastat.protocols import Protocol
from fastat.support.files import check_same_settings
from fastat.support.files.foreign_json import check_json, read_file, shortly
from fastat.support.threat import Bounds, ThreatModel, check_bounds, check_norm
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

LENGTH = ("epochs", "milestones", "swa_start")
"""Fields that may change where the epochs that are done would have been the same."""
_FREE = ("eval_size", "select")
"""Fields that may change at any time: they decide nothing of the training."""
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
    objects = isinstance(saved, Mapping) and _OBJECTS in saved
    record = _of_fields(saved) if objects else record_of(config_from(saved))
    check_norm(record.threat.norm)
    check_bounds(record.threat.bounds)
    if not 0 <= record.threat.eps < math.inf:
        raise ValueError(f"eps must be a finite number >= 0, got {record.threat.eps}")
    return record


def record_in(saved: Mapping[str, Any], name: str) -> Record:
    """:func:`record_from`, whose errors name what it is in: no field of theirs is a flag of a command."""
    try:
        return record_from(saved)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def read_record(file: Path) -> Record:
    """That in a config.json.

    Raises:
        OSError, ValueError: it cannot be read; the message names the file.
    """
    return record_in(read_file(file, {}), str(file))


def check_same_record(place: Path, saved: Record, record: Record) -> None:
    """Raises ValueError if a folder or a file holds a run of other settings than those of now, its length apart; the
    message names the fields."""
    old, new = saved.fields, record.fields
    if saved.of_objects != record.of_objects:
        kinds = ("of a configuration", "of objects, from Python")
        what = f"a run {kinds[saved.of_objects]}, this one is {kinds[record.of_objects]}"
        raise ValueError(f"{place} holds {what}: choose another folder, or delete this one")
    if {**old, **{field: new.get(field) for field in (*_FREE, *LENGTH)}} != new:
        check_same_settings(place, "a run of another configuration", old, new)


def _of_fields(fields: Mapping[str, Any]) -> Record:
    if wrong := [name for name in _TEXTS if not isinstance(fields.get(name), str)]:
        raise ValueError(f"{wrong[0]} must be a string, got {shortly(fields.get(wrong[0]))}")
    if not all(isinstance(name, str) for name in fields):
        raise ValueError("the names of its fields must be strings")
    plain = {name: value for name, value in fields.items() if value in _NAMES.get(name, (value,))}
    if plain.get("lr") is None:  # an optimizer of one's own has its own
        plain.pop("lr", None)
    optimizer, run = (_part(kind, plain) for kind in (OptimizerConfig, RunConfig))
    eps, norm, bounds = fields.get("eps"), fields["norm"], fields.get("bounds")
    if not isinstance(eps, int | float):
        raise ValueError(f"eps must be a number, got {shortly(eps)}")
    check_json(eps, float, "eps")
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
    if saved is None:
        return None
    if not isinstance(saved, list) or len(saved) != 2 or not all(map(_is_end, saved)):
        raise ValueError(f"bounds must be null or two numbers, got {shortly(saved)}")
    return saved[0], saved[1]


def _is_end(value: Any) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63
    return value is None or isinstance(value, float) or whole
