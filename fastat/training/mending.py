"""Files of a run that are missing or broken, made again from its checkpoint."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastat.support.files import load_checkpoint, save_checkpoint, write_json, write_json_lines
from fastat.support.files.foreign_json import read_file
from fastat.training.checkpoint import best_of
from fastat.training.extending import is_over
from fastat.training.monitors import best_epoch
from fastat.training.network import BEST, CALLER, CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, read_rows
from fastat.training.record import Record, check_same_record, read_record, record_in
from fastat.training.saved import check_network_state


def _read_texts(file: Path) -> dict[str, Any]:
    return read_file(file, {...: str})


_SAYINGS: dict[str, tuple[str, Callable[[Path], object]]] = {
    CONFIG: ("config", read_record),
    CALLER: ("caller", _read_texts),
    ENVIRONMENT: ("environment", _read_texts),
}
"""Files that say something of a run: where a checkpoint has the same, and how they are read."""


def mend(folder: Path, record: Record) -> list[str]:
    """Makes files of this run again that are missing or broken, and returns their names.

    All but the network of an earlier epoch is in the checkpoint; checkpoints of before know nothing of the caller and
    the environment. It is read only if something may be lost.

    Raises:
        ValueError: the checkpoint cannot be read, or is of a run of other settings: nothing is written then.
    """
    file = folder / CHECKPOINT
    if not file.exists() or _is_whole(folder, record):
        return []
    saved = load_checkpoint(file)
    try:
        check_network_state(saved, file)
        own = record_in(saved.get("config", {}), f"{file}: config")
    except ValueError:
        return []  # it is something else, as the run says that was to go on from it
    check_same_record(folder, own, record)
    made = []
    for name, (field, read) in _SAYINGS.items():
        if saved.get(field) and not _is_read(folder / name, read):
            write_json(folder / name, saved[field])
            made.append(name)
    rows = read_rows(folder / METRICS)
    if rows is None or len(rows) < len(saved["history"]):
        write_json_lines(folder / METRICS, saved["history"])
        made.append(METRICS)
    if (best := best_of(saved)) and _saved_best(folder).get("epoch") != best["epoch"]:
        save_checkpoint(folder / BEST, best)
        made.append(BEST)
    return made


def _is_whole(folder: Path, record: Record) -> bool:
    """Whether a run is over and has all its files, as the others than the checkpoint, which is large, tell."""
    rows = read_rows(folder / METRICS)
    if not rows or not is_over(record, rows) or not zipfile.is_zipfile(folder / CHECKPOINT):  # one cut short is none
        return False
    best, saved = best_epoch(rows), _saved_best(folder)
    if best is None or saved.get("epoch") != best + 1 or "caller" not in saved:
        return False
    needed = [name for name in _SAYINGS if name != CALLER or saved["caller"]]
    return all(_is_read(folder / name, _SAYINGS[name][1]) for name in needed)


def _saved_best(folder: Path) -> dict[str, Any]:
    """The content of best.pt; empty where it is missing or broken."""
    try:
        return load_checkpoint(folder / BEST)
    except (FileNotFoundError, ValueError):
        return {}


def _is_read(file: Path, read: Callable[[Path], object]) -> bool:
    try:
        read(file)
    except (OSError, ValueError):
        return False
    return True
