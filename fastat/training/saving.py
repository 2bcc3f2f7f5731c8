"""The files of a run: what is saved, and how the run is put back from it."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any

from fastat.support.distributed import gather_parts, rank_of
from fastat.support.files import load_checkpoint, save_checkpoint, write_json_lines
from fastat.training.monitors import Watch, best_epoch
from fastat.training.network import BEST, CHECKPOINT, METRICS, Network, Which, network_state

if TYPE_CHECKING:
    from fastat.training.run import Run


def save_run(run: Run) -> None:
    """Writes the checkpoint, then what is copied from it: metrics.jsonl, and best.pt after the best epoch.

    With a group all its processes call this, and the first one writes.
    """
    delta = run.delta
    if delta is not None and run.group is not None:
        delta = gather_parts(delta, [len(delta)] * run.group.size(), run.group)
    if rank_of(run.group) > 0:
        return
    state = {
        **network_state(run.config, run.train_set, run.model),
        "average": None if run.average is None else run.average.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "delta": delta,
        "history": run.history,
        "epoch": run.epoch,
        "step": run.step,
        "losses": run.losses,
        "hits": run.hits,
        "seconds": run.seconds,
        "findings": run.findings,
        "averaged": run.averaged,
        "closing": run.closing,
        "watch": dataclasses.asdict(run.watch),
        "sound": run.sound,
        "stopped": run.stopped,
    }
    save_checkpoint(run.folder / CHECKPOINT, state)
    write_json_lines(run.folder / METRICS, run.history)
    save_best(run)


def save_best(run: Run) -> None:
    """Keeps the network if it has just finished its best epoch.

    After the checkpoint of the end of that epoch, which has the same weights: whichever write a kill comes between,
    the next start finds them, and no later epoch's weights stand under the name of an earlier one.
    """
    best = best_epoch(run.history)
    if run.step > 0 or best is None or best + 1 != run.epoch:
        return
    state = network_state(run.config, run.train_set, run.judged)
    save_checkpoint(run.folder / BEST, {**state, "history": run.history, "epoch": run.epoch})


def restore(run: Run, state: dict[str, Any]) -> None:
    """Puts the run where the checkpoint was saved."""
    run.model.load_state_dict(state["model"])
    if run.average is not None:
        run.average.load_state_dict(state["average"])
    run.optimizer.load_state_dict(state["optimizer"])
    if run.delta is not None:
        run.delta.copy_(state["delta"][run.part])
    run.history = state["history"]
    run.epoch, run.step, run.seconds = state["epoch"], state["step"], state["seconds"]
    run.losses.copy_(state["losses"])
    run.hits.copy_(state["hits"])
    run.findings, run.watch, run.sound = state["findings"], Watch(**state["watch"]), state["sound"]
    run.stopped, run.averaged, run.closing = state["stopped"], state["averaged"], state["closing"]


def as_network(run: Run) -> Network:
    """The network of a run that is over: of the best epoch or of the last one, as the configuration selects."""
    best = best_epoch(run.history)
    if run.config.select == "last" or best is None:
        return _network(run, run.epoch, "last")
    if best + 1 != run.epoch:
        run.judged.load_state_dict(load_checkpoint(run.folder / BEST)["model"])
    return _network(run, best + 1, "best")


def snapshot(run: Run) -> dict[str, Any]:
    """A copy of the weights, their average and the optimizer's state, for :func:`go_back`."""
    average = None if run.average is None else run.average.state_dict()
    state = {"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict(), "average": average}
    return copy.deepcopy({**state, "averaged": run.averaged})


def go_back(run: Run) -> None:
    """Puts the weights, their average and the optimizer where the last sound probe found them."""
    sound = copy.deepcopy(run.sound)
    run.model.load_state_dict(sound["model"])
    run.optimizer.load_state_dict(sound["optimizer"])
    if run.average is not None:
        run.average.load_state_dict(sound["average"])
        run.averaged = sound["averaged"]


def _network(run: Run, epoch: int, which: Which) -> Network:
    title, classes = run.train_set.title, run.train_set.classes
    return Network(run.judged.eval(), run.config, title, classes, run.history, epoch, which)
