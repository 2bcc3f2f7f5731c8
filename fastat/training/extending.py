"""Which runs a folder goes on with: those of the same settings, and longer ones whose past stays as it was."""

from __future__ import annotations

import json
from pathlib import Path

from fastat.support.files import check_same_settings, differences
from fastat.training.network import CONFIG
from fastat.training.record import Record, record_from
from fastat.training.schedules import Schedule, schedule_of

_FREE = ("eval_size", "select")
"""What may change at any time: it decides nothing of the training."""
_LENGTH = ("epochs", "milestones", "swa_start")
"""What may change where the epochs that are done would have been the same."""


def saved_record(path: Path) -> Record | None:
    """That of the run in the folder, if it holds one.

    Raises:
        ValueError: its file cannot be read.
    """
    file = path / CONFIG
    if not file.exists():
        return None
    try:
        return record_from(json.loads(file.read_text()))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def check_same_run(path: Path, record: Record) -> Record | None:
    """What the folder's run has written down, if it holds one.

    Raises:
        ValueError: that is a run of other settings, its length apart; the message names the fields.
    """
    saved = saved_record(path)
    if saved is None:
        return None
    old, new = saved.fields, record.fields
    if saved.of_objects != record.of_objects:
        kinds = ("of a configuration", "of objects, from Python")
        what = f"a run {kinds[saved.of_objects]}, this one is {kinds[record.of_objects]}"
        raise ValueError(f"{path} holds {what}: choose another folder, or delete this one")
    if {**old, **{field: new.get(field) for field in (*_FREE, *_LENGTH)}} != new:
        check_same_settings(path, "a run of another configuration", old, new)
    return saved


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
    changed = "; ".join(differences({f: getattr(old, f) for f in _LENGTH}, {f: getattr(new, f) for f in _LENGTH}))
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
