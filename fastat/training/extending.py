"""Which runs a folder goes on with: those of the same settings, and longer ones whose past stays as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastat.support.files import differences, load_checkpoint
from fastat.training.network import BEST, CHECKPOINT, CONFIG, METRICS, read_rows
from fastat.training.record import LENGTH, Record, check_same_record, read_record, record_in
from fastat.training.saved import check_network_state
from fastat.training.schedules import Schedule, schedule_of


def saved_record(path: Path) -> Record | None:
    """That of the run in the folder, if it holds one.

    Raises:
        ValueError: its file cannot be read.
    """
    file = path / CONFIG
    return read_record(file) if file.exists() else None


def check_same_run(path: Path, record: Record) -> Record | None:
    """What the folder's run has written down, if it holds one.

    Raises:
        ValueError: that is a run of other settings, its length apart; the message names the fields.
    """
    saved = saved_record(path)
    if saved is not None:
        check_same_record(path, saved, record)
    return saved


def check_not_over(path: Path, record: Record) -> None:
    """Raises ValueError if a folder without a checkpoint holds the network of this run, which was over: to train it
    again would overwrite what is left of it."""
    file = path / BEST
    try:
        best = load_checkpoint(file)
        check_network_state(best, file)
        own = record_in(best.get("config", {}), f"{file}: config")
        check_same_record(file, own, record)
    except (FileNotFoundError, ValueError):
        return  # the network is lost, or another's
    if is_over(saved_record(path) or own, read_rows(path / METRICS) or ()) or is_over(own, best["history"]):
        raise ValueError(
            f"{path} holds this run, finished, without its {CHECKPOINT}: it cannot go on, and to train it again would "
            f"overwrite the network of its best epoch. Evaluate that (fastat evaluate {path} --which best), put a copy "
            f"of {CHECKPOINT} back, or delete {file} to train again"
        )


def is_over(record: Record, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run with these lines in metrics.jsonl has no epoch left."""
    return bool(rows) and (bool(rows[-1]["stopped"]) or len(rows) >= record.optimizer.epochs)


def check_same_past(path: Path, record: Record, schedule: Schedule, epochs: int, steps: int, per_epoch: int) -> None:
    """Raises ValueError if the run in the folder is of another length, and its past would have been another.

    Args:
        schedule: what the run goes on with.
        epochs, steps: how many of them are done.
        per_epoch: steps of an epoch.
    """
    saved = saved_record(path)
    if saved is None:
        return
    old, new = saved.optimizer, record.optimizer
    own = record.fields["schedule"] != new.schedule
    before = schedule if own else schedule_of(old)
    was, will_be = old.epochs * per_epoch, new.epochs * per_epoch
    changed = "; ".join(differences({f: getattr(old, f) for f in LENGTH}, {f: getattr(new, f) for f in LENGTH}))
    if not changed:
        return
    if new.epochs < epochs:
        raise ValueError(f"{path} holds this run with {epochs} epochs done already: epochs must be at least that")
    # the momentum moves with the rate, if it does
    same = all(before.rate((step + 0.5) / was) == schedule.rate((step + 0.5) / will_be) for step in range(steps))
    begun = (int(settings.swa_start * settings.epochs) for settings in (old, new))
    same_average = new.average != "swa" or len({min(epochs, start) for start in begun}) == 1
    if same and same_average:
        return
    what, cure = "another average", "swa_start must be at the same epoch"
    if not same:
        what = f"other learning rates, by the schedule {record.fields['schedule']}"
        cure = "only a constant schedule, or multistep with its milestones at the same steps, can go on"
    raise ValueError(
        f"{path} holds this run at another length ({changed}), at which its first {steps:,} steps would have had "
        f"{what}: {cure}. Start from its weights in another folder, or delete this one"
    )
