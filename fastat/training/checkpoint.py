"""The folder of a run: what is saved there, and how a run is put back from it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastat.data import AnyDataset, content_digest, dataset_digest
from fastat.support.distributed import gather_parts, rank_of
from fastat.support.files import in_a_line, load_checkpoint, save_checkpoint, write_json_lines
from fastat.support.files.foreign_json import read_file
from fastat.training.monitors import Watch, best_epoch
from fastat.training.network import BEST, CALLER, CHECKPOINT, CONFIG, METRICS, Network, Which, network_state
from fastat.training.record import Record
from fastat.training.saved import check_best
from fastat.training.state import State
from fastat.training.step import Learner

_NETWORK = ("config", "title", "classes", "image_shape", "model")
"""What of a checkpoint is of the network: all that :func:`fastat.training.network.network_state` returns."""
_WAYS = ("capturable", "fused", "foreach")
"""Settings of an optimizer that say how it computes, on the device where it does."""


@dataclass(frozen=True)
class RunFolder:
    """Where a run is saved, and what its files say of it.

    Attributes:
        path: the folder.
        record: what is written down of it.
        train_set: what it learns from, whose title, classes and image shape are saved.
        caller: digests of what its configuration does not say.
        environment: where it is trained.
    """

    path: Path
    record: Record
    train_set: AnyDataset
    caller: Mapping[str, str]
    environment: Mapping[str, str]


def save_run(folder: RunFolder, learner: Learner, state: State) -> None:
    """Writes the checkpoint, then what is copied from it: metrics.jsonl, and best.pt after the best epoch.

    With a group all its processes call this, and the first one writes.
    """
    delta, group = learner.delta, learner.place.group
    if delta is not None and group is not None:
        delta = gather_parts(delta, [len(delta)] * group.size(), group)
    if rank_of(group) > 0:
        return
    now = state.current
    saved = {
        **network_state(folder.record, folder.train_set, learner.model),
        "average": None if learner.average is None else learner.average.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "unsaved": _unsaved(learner.model),
        "delta": delta,
        "history": state.history,
        "epoch": state.epoch,
        "step": now.step,
        "losses": now.marks.losses,
        "hits": now.marks.hits,
        "seconds": now.seconds,
        "findings": now.findings,
        "averaged": state.averaged,
        "closing": now.averaged,
        "watch": dataclasses.asdict(state.watch),
        "sound": state.sound,
        "stopped": state.stopped,
        "caller": dict(folder.caller),
        "environment": dict(folder.environment),
    }
    save_checkpoint(folder.path / CHECKPOINT, saved)
    if not state.readable:  # what the caller's module and optimizer keep may be anything
        load_checkpoint(folder.path / CHECKPOINT)
        state.readable = True
    write_json_lines(folder.path / METRICS, state.history)
    if best := best_of(saved):
        # After the checkpoint, which has the same weights: whichever write a kill comes between, the next start finds
        # them, and no later epoch's weights stand under the name of an earlier one.
        save_checkpoint(folder.path / BEST, best)


def best_of(saved: Mapping[str, Any]) -> dict[str, Any] | None:
    """What best.pt is to hold by a checkpoint that was saved at the end of the best epoch; None by any other."""
    best = best_epoch(saved["history"])
    if best is None or saved.get("step") != 0 or best + 1 != saved["epoch"]:
        return None
    found = {name: saved[name] for name in (*_NETWORK, "history", "epoch", "caller") if name in saved}
    return {**found, "model": saved.get("average") or saved["model"]}


def best_state(folder: Path, record: Record, epoch: int) -> dict[str, Any]:
    """What best.pt has of the best epoch of a run, the one of this number.

    Raises:
        ValueError: the file is missing or broken, or has another network; the message says what to do.
    """
    file = folder / BEST
    try:
        saved = load_checkpoint(file)
        check_best(saved, record, epoch, file)
        return saved
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"{file}, the network of the best epoch, {epoch}, is lost ({error}), and no other file has it: put a copy "
            "back, keep the network of the last epoch (--select last, select='last'), or delete the folder and train "
            "again"
        ) from error


def _unsaved(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that are not part of the network's state, but may change as it learns."""
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def restore(learner: Learner, state: State, part: slice, saved: dict[str, Any]) -> None:
    """Puts a run where the checkpoint was saved; ``part`` of the perturbation that attack "free" carries on is ours.

    Raises:
        ValueError: what was saved does not fit the run.
    """
    now = state.current
    try:
        learner.model.load_state_dict(saved["model"])
        ways = [{way: group[way] for way in _WAYS if way in group} for group in learner.optimizer.param_groups]
        learner.optimizer.load_state_dict(saved["optimizer"])
        for group, own in zip(learner.optimizer.param_groups, ways, strict=True):
            group.update(own)
        for name, buffer in _unsaved(learner.model).items():
            buffer.copy_(saved["unsaved"][name])
        if learner.average is not None:
            learner.average.load_state_dict(saved["average"])
        if learner.delta is not None:
            learner.delta.copy_(saved["delta"][part])
        now.marks.losses.copy_(saved["losses"])
        now.marks.hits.copy_(saved["hits"])
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the run was begun with another network or optimizer: {in_a_line(error)}") from error
    now.step, now.seconds, now.findings, now.averaged = (
        saved[name] for name in ("step", "seconds", "findings", "closing")
    )
    state.history, state.epoch, state.averaged = saved["history"], saved["epoch"], saved["averaged"]
    state.watch, state.sound, state.stopped = Watch(**saved["watch"]), saved["sound"], saved["stopped"]


def as_network(folder: RunFolder, learner: Learner, state: State) -> Network:
    """The network of a run that is over: of the best epoch or of the last one, as the configuration selects."""
    best = best_epoch(state.history)
    epoch = state.epoch
    which: Which = "last"
    if folder.record.run.select == "best" and best is not None:
        if best + 1 != epoch:
            learner.evaluated.load_state_dict(best_state(folder.path, folder.record, best + 1)["model"])
        epoch, which = best + 1, "best"
    title, classes = folder.train_set.title, folder.train_set.classes
    return Network(learner.evaluated.eval(), folder.record, title, classes, state.history, epoch, which, folder.path)


def snapshot(learner: Learner, averaged: int) -> dict[str, Any]:
    """A copy of the weights, their average and the optimizer's state, for :func:`go_back`."""
    average = None if learner.average is None else learner.average.state_dict()
    kept = {"model": learner.model.state_dict(), "optimizer": learner.optimizer.state_dict(), "average": average}
    return copy.deepcopy({**kept, "averaged": averaged})


def go_back(learner: Learner, state: State) -> None:
    """Puts the weights, their average and the optimizer where the last sound probe found them."""
    sound = copy.deepcopy(state.sound)
    learner.model.load_state_dict(sound["model"])
    learner.optimizer.load_state_dict(sound["optimizer"])
    if learner.average is not None:
        learner.average.load_state_dict(sound["average"])
        state.averaged = sound["averaged"]


def of_the_caller(train_set: AnyDataset | None, front: nn.Module | None) -> dict[str, str]:
    """Digests of images and a front that do not come from the configuration."""
    found = {}
    if train_set is not None:
        found["images"] = dataset_digest(train_set)
    if front is not None:
        found["front"] = content_digest(str(front), *front.buffers())
    return found


def check_same_caller(path: Path, given: Mapping[str, str]) -> None:
    """Raises ValueError if the folder holds a run on other images, or behind another front."""
    if not (path / CONFIG).exists():
        return
    file = path / CALLER
    kept = read_file(file, {...: str}) if file.exists() else {}
    for name, what in (("images", "on other images"), ("front", "behind another front")):
        if kept.get(name) != given.get(name):
            raise ValueError(f"{path} holds a run {what}: choose another folder, or delete this one")
