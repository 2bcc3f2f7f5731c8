"""Names of files and folders that stand for what was computed."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def json_digest(value: Any, digits: int) -> str:
    """So many hexadecimal digits that stand for a JSON value, whatever the order of its objects' keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:digits]
