"""Files of results: their folder, their names, how they are written, and what they say about their origin."""

import json
import os
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "bench" / "results"


def results_folder() -> Path:
    """Where commands write that are given no folder: $OUT, else bench/results."""
    return Path(os.environ.get("OUT") or RESULTS)


def file_name(environment: dict[str, Any]) -> str:
    """Of what all suites write on such a machine, without its ending."""
    words = re.findall(r"[a-z0-9]+", str(environment["device"]).lower())
    return "cpu" if environment["kind"] == "cpu" else "-".join(["gpu", *words])


def write(path: Path, text: str) -> None:
    """Writes a file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def load(path: Path) -> dict[str, Any]:
    """The JSON of a run."""
    return json.loads(path.read_text())


def date() -> str:
    """Now, as results say when they were measured."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def commit() -> str:
    """The commit of the working tree, with a plus if files differ from it; "unknown" outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"
