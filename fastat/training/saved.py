"""What the files of a run must hold, checked before they are used: they may be damaged, swapped, or a stranger's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor

from fastat.models import check_tensors
from fastat.support.files.foreign_json import check_json, read_object
from fastat.training.record import Record, check_same_record, record_in

_FINDINGS = [{"monitor": str, "step": int, "text": str}]
ROW = {
    "epoch": int,
    "lr": Real,
    "train": {"loss": Real, "adversarial": float},
    "val": {...: float},
    "val_images": int,
    "seconds": float,
    "findings": _FINDINGS,
    "stopped": str,
}
"""A line of metrics.jsonl; what is learned at and from may be infinite or NaN, of a training that went wrong."""
_WATCHED = ("clean", "fgsm", "pgd-20")
_NETWORK = {"title": str, "classes": [str], "image_shape": [int], "epoch": int, "history": [ROW], "model": {}}
_SOMETIMES = {"step": int, "caller": {...: str}, "environment": {...: str}}
_PROGRESS = {
    "history": [ROW],
    "epoch": int,
    "step": int,
    "seconds": float,
    "findings": _FINDINGS,
    "averaged": int,
    "closing": bool,
    "watch": {"best": float, "collapsed": bool, "rollbacks": int},
    "sound": {},
    "stopped": str,
    "model": {},
    "unsaved": {},
}
"""What a checkpoint must hold for a network to be built from it, and for its run to go on."""


def history_in(text: bytes, name: str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; ValueError, which names it, for others."""
    rows = [read_object(line, ROW, f"{name}: line {number}") for number, line in enumerate(text.splitlines(), 1)]
    check_history(rows, f"{name}:")
    return rows


def check_history(rows: Any, place: str) -> None:
    """Raises ValueError, which names the place, unless these are the epochs of a run, watched in all or in none."""
    check_json(rows, [ROW], place)
    check_json(rows, object, place)
    for number, row in enumerate(rows):
        if bool(row["val"]) != bool(rows[0]["val"]):
            raise ValueError(f"{place} {number} must have accuracies in val in all epochs or in none")
        if row["val"] and (missing := [name for name in _WATCHED if name not in row["val"]]):
            raise ValueError(f"{place} {number} val lacks {', '.join(missing)}")
        if "measured" in row:
            check_json(row["measured"], {}, f"{place} {number} measured")


def check_network_state(state: Mapping[str, Any], file: Path) -> None:
    """Raises ValueError, which names the file, unless a network can be built from what it holds."""
    check_json(state, _NETWORK, f"{file}:")
    for name, kind in _SOMETIMES.items():
        if name in state:
            check_json(state[name], kind, f"{file}: {name}")
    check_history(state["history"], f"{file}: history")
    check_json(state.get("config"), object, f"{file}: config")
    if not state["classes"] or not state["image_shape"] or min(state["image_shape"]) < 1 or state["epoch"] < 0:
        raise ValueError(f"{file}: it must have classes, an image_shape of sizes and a number of epochs")
    for part in ("model", "average"):
        weights = state.get(part)
        if weights is not None and not (
            isinstance(weights, Mapping) and all(isinstance(name, str) for name in weights)
        ):
            raise ValueError(f"{file}: {part} must be weights by their names")
    if not all(isinstance(value, Tensor) for value in state["model"].values()):
        raise ValueError(f"{file}: model must hold tensors")


def check_progress(saved: Mapping[str, Any], record: Record, steps_per_epoch: int, file: Path) -> None:
    """Raises ValueError, which names the file, unless this run can go on from what it holds."""
    try:
        _check_progress(saved, steps_per_epoch, f"{file}:")
    except ValueError as error:
        raise ValueError(f"{error}. Bring back a copy of it, or delete it to begin the run again") from error
    check_same_record(file, record_in(saved["config"], f"{file}: config"), record)


def _check_progress(saved: Mapping[str, Any], steps_per_epoch: int, place: str) -> None:
    if "config" not in saved:
        raise ValueError(f"{place} it is no checkpoint of fastat")
    if "optimizer" not in saved:
        raise ValueError(f"{place} it is the network of a run's best epoch, best.pt, which no run can go on from")
    check_json(saved, _PROGRESS, place)
    check_history(saved["history"], f"{place} history")
    if saved["epoch"] != len(saved["history"]) or not 0 <= saved["step"] <= steps_per_epoch or saved["averaged"] < 0:
        text = f"epoch {saved['epoch']} and step {saved['step']}, with {len(saved['history'])} epochs in its history"
        raise ValueError(f"{place} it stands at {text}, which no run of {steps_per_epoch} steps an epoch does")


def check_size(needed: int, weights: Mapping[str, Tensor], file: Path) -> None:
    """Raises ValueError if a network of so many numbers has more than twice as many as the weights that are for it."""
    if needed > 2 * _size(weights):
        raise ValueError(f"{file} holds the weights of another network: {_size(weights)} numbers, not {needed}")


def check_best(saved: Mapping[str, Any], record: Record, epoch: int, file: Path) -> None:
    """Raises ValueError, which names the file, unless it holds the network of this run after its best epoch."""
    check_network_state(saved, file)
    if "optimizer" in saved or saved["epoch"] != epoch:
        what = "a whole checkpoint" if "optimizer" in saved else f"the network of epoch {saved['epoch']}"
        raise ValueError(f"{file} holds {what}, not the network of the best epoch, {epoch}: bring back a copy of it")
    check_same_record(file, record_in(saved.get("config", {}), f"{file}: config"), record)


def statistics_in(
    weights: Mapping[str, Tensor], image_shape: Sequence[int], file: Path
) -> tuple[list[float], list[float]]:
    """The mean and deviation of the channels that are saved with a network.

    Raises:
        ValueError: they are not there, or not those of such images; the message names the file.
    """
    found = [weights.get(name) for name in ("mean", "std")]
    check_tensors({name: weights[name] for name in ("mean", "std") if name in weights}, file)
    if any(value is None or value.dim() != 1 or value.numel() not in (1, image_shape[0]) for value in found):
        raise ValueError(f"{file}: model must have a mean and a std of {image_shape[0]} channels")
    mean, std = (value.tolist() for value in found if value is not None)
    return mean, std


def _size(weights: Mapping[str, Tensor]) -> int:
    """How many numbers there are in plain tensors, views of few that look like many not counted."""
    return sum(min(t.numel(), t.untyped_storage().nbytes() // max(t.element_size(), 1)) for t in weights.values())
