"""A run's folder in the hands of one process, or of one group of them: locked, and its lost files made again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from fastat.support.distributed import Group, agreed, rank_of
from fastat.support.files import load_checkpoint, save_checkpoint, write_json, write_json_lines
from fastat.support.foreign_json import read_file
from fastat.training.checkpoint import NETWORK
from fastat.training.lock import locked
from fastat.training.monitors import best_epoch
from fastat.training.network import BEST, CALLER, CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, read_rows
from fastat.training.saved import check_network_state

_SAYINGS = {CONFIG: "config", CALLER: "caller", ENVIRONMENT: "environment"}
"""Files that say something of a run, and where a checkpoint has the same."""


@contextmanager
def held(folder: Path, group: Group | None, device: torch.device, quiet: bool = True) -> Iterator[None]:
    """Within the block the folder is this process's, or this group's, whose first process holds it for all; what is
    lost of it has been made again, as far as its checkpoint has it. The thread that holds it may take it again.

    Raises:
        OSError: the folder cannot be made, or a file in it cannot be read or written.
        ValueError: another process holds it, or its checkpoint cannot be read; the message says what to do.
    """
    with ExitStack() as stack:
        failed: Exception | None = None
        if rank_of(group) == 0:
            try:
                if stack.enter_context(locked(folder)) and (made := mend(folder)) and not quiet:
                    print(f"{folder}: made again from the checkpoint: {', '.join(made)}", flush=True)
            except (OSError, ValueError) as error:
                failed = error
        if not agreed(failed is None, group, device):
            raise failed or ValueError(f"the first process cannot take {folder}: its message says why")
        yield


def mend(folder: Path) -> list[str]:
    """Makes files of a run again that are missing or broken, and returns their names.

    All but the network of an earlier epoch is in the checkpoint; checkpoints of before know nothing of the caller and
    the environment.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    file = folder / CHECKPOINT
    if not file.exists():
        return []
    saved = load_checkpoint(file)
    try:
        check_network_state(saved, file)
    except ValueError:
        return []  # it is something else, as the run says that was to go on from it
    made = []
    for name, field in _SAYINGS.items():
        if isinstance(saved.get(field), dict) and saved[field] and not _is_object(folder / name):
            write_json(folder / name, saved[field])
            made.append(name)
    rows = read_rows(folder / METRICS)
    if rows is None or len(rows) < len(saved["history"]):
        write_json_lines(folder / METRICS, saved["history"])
        made.append(METRICS)
    if (best := _best_of(saved)) and not _is_saved(folder / BEST, best["epoch"]):
        save_checkpoint(folder / BEST, best)
        made.append(BEST)
    return made


def _best_of(saved: dict[str, Any]) -> dict[str, Any] | None:
    """What best.pt is to hold, where the checkpoint was saved at the end of the best epoch and so has it."""
    best = best_epoch(saved["history"])
    if best is None or saved.get("step") != 0 or best + 1 != saved["epoch"]:
        return None
    found = {name: saved[name] for name in (*NETWORK, "history", "epoch", "caller") if name in saved}
    return {**found, "model": saved.get("average") or saved["model"]}


def _is_saved(file: Path, epoch: int) -> bool:
    try:
        return bool(load_checkpoint(file)["epoch"] == epoch)
    except (FileNotFoundError, KeyError, ValueError):
        return False


def _is_object(file: Path) -> bool:
    try:
        read_file(file, {})
    except (OSError, ValueError):
        return False
    return True
