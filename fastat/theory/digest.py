"""Names of files and folders that stand for what was computed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from fastat.training import TrainConfig, as_fields


def json_digest(value: Any, digits: int) -> str:
    """So many hexadecimal digits that stand for a JSON value, whatever the order of its objects' keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]


def cell_fields(cell: Any) -> dict[str, Any]:
    """The fields of a cell as JSON has them; those of a configuration in it are flat, as in config.json."""
    fields = dataclasses.asdict(cell)
    values = {one.name: getattr(cell, one.name) for one in dataclasses.fields(cell)}
    return fields | {name: as_fields(value) for name, value in values.items() if isinstance(value, TrainConfig)}
