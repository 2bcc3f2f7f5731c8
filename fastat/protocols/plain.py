"""Protocols as plain data, for files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastat.protocols.attack import Attack
from fastat.protocols.losses import LOSSES
from fastat.protocols.objective import OBJECTIVES

_KINDS: dict[str, dict[str, type]] = {"loss": dict(LOSSES), "objective": dict(OBJECTIVES)}


def data_of(attack: object, **others: object) -> dict[str, Any]:
    """The parts of a protocol as plain data (:meth:`fastat.Protocol.as_dict`)."""
    if not isinstance(attack, Attack):
        raise TypeError(f"attack is a function of one's own, which is no plain data: {attack!r}")
    found: dict[str, Any] = {"attack": _fields(attack)}
    for part, kinds in _KINDS.items():
        value = others[part]
        names = {kind: name for name, kind in kinds.items()}
        if type(value) not in names:
            raise TypeError(f"{part} is a function of one's own, which is no plain data: {value!r}")
        found[part] = {"name": names[type(value)], **_fields(value)}
    return found


def parts_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the protocol that the data are of."""
    fields = _mapping("a protocol", saved, {"attack", "loss", "objective", "grad_align", "awp"})
    attack = dict(_mapping("attack", fields.get("attack"), {one.name for one in dataclasses.fields(Attack)}))
    if isinstance(attack.get("bounds"), list):
        attack["bounds"] = tuple(attack["bounds"])
    found: dict[str, Any] = {"attack": Attack(**attack)}
    for part, kinds in _KINDS.items():
        if part not in fields:
            continue
        value = fields[part]
        name = value.get("name") if isinstance(value, Mapping) else None
        if not isinstance(name, str) or name not in kinds:
            raise ValueError(f"{part} must have a name, one of {', '.join(kinds)}, got {value!r}")
        known = {one.name for one in dataclasses.fields(kinds[name])}
        values = dict(_mapping(part, value, known | {"name"}))
        del values["name"]
        found[part] = kinds[name](**values)
    return found | {name: fields[name] for name in ("grad_align", "awp") if name in fields}


def _fields(value: Any) -> dict[str, Any]:
    """Without those that are left out: a tuple is a list in JSON."""
    return {
        one.name: list(entry) if isinstance(entry := getattr(value, one.name), tuple) else entry
        for one in dataclasses.fields(value)
    }


def _mapping(what: str, value: Any, known: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} must be an object of fields, got {value!r}")
    if unknown := sorted(map(str, value.keys() - known)):
        raise ValueError(f"{what} has no {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    return value
