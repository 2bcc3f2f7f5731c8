"""The loop over steps and epochs: what comes when, what is written down, when it ends."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastat import graphs
from fastat.data import Batch
from fastat.support.distributed import agreed
from fastat.support.interrupt import interrupts_deferred
from fastat.training import monitors
from fastat.training.averaging import move_average_
from fastat.training.checkpoint import save_run
from fastat.training.probes import probe, react_to_validation, report, validate
from fastat.training.progress import Display
from fastat.training.run import Run
from fastat.training.state import State, start_epoch
from fastat.training.step import train_step

_LOOK_EVERY = 25  # steps between two looks at the loss on a GPU: each look waits for the GPU


class StepReport(NamedTuple):
    """A step of a run, for those who log it.

    Attributes:
        step: its number in the whole run, from 1.
        epoch: the epoch under way, from 1.
        lr: its learning rate; of an optimizer of several rates that of the first group.
        loss: what was descended, 0-d float32 on the device; NaN for a skipped step. Reading it waits for a GPU.
        adversarial: fraction of the attacked samples that were classified correctly, likewise.
    """

    step: int
    epoch: int
    lr: float
    loss: Tensor
    adversarial: Tensor


@dataclass(frozen=True)
class Listeners:
    """Who is told of a run; none in processes other than the first.

    Attributes:
        epoch: given the line of metrics.jsonl of every epoch.
        step: given a report of every step.
        measure: see :func:`fastat.train`.
        measure_every: epochs between two measurements.
    """

    epoch: Sequence[Callable[[dict[str, Any]], object]] = ()
    step: Callable[[StepReport], object] | None = None
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None
    measure_every: int = 1


def train_epochs(run: Run, display: Display, listeners: Listeners, checkpoint_every: float) -> None:
    """The epochs that are left of a run; on Ctrl-C, and where the data or a listener raise, the run is saved, in one
    process, before that goes on.

    Args:
        display: shows where the run stands.
        listeners: who else is told.
        checkpoint_every: seconds between two checkpoints within an epoch.
    """
    learner, state, epochs = run.learner, run.state, run.schedule.epochs
    try:
        while not run.over or state.current.step > 0:  # a run that a monitor stops has its last epoch to close
            _train_epoch(run, display, listeners.step, checkpoint_every)
            with interrupts_deferred(learner.place.group is None):
                _average_epoch(run)
            due = (state.epoch + 1) % listeners.measure_every == 0 or state.epoch + 1 == epochs
            measure = listeners.measure
            measured = _measured(measure, run) if measure is not None and due else {}
            accuracy = validate(run)
            with interrupts_deferred(learner.place.group is None):
                react_to_validation(run, display, accuracy)
                _close_epoch(run, display, accuracy, measured)
            display.epoch(state.history[-1])
            for tell in listeners.epoch:
                tell(copy.deepcopy(state.history[-1]))
    except KeyboardInterrupt:
        if learner.place.group is None:
            _save(run)
        raise
    finally:
        for model in (learner.forward, learner.model, learner.evaluated, *run.front.seen.values()):
            if isinstance(model, nn.Module):
                graphs.forget(model)


@contextmanager
def _saved_if_it_raises(run: Run) -> Iterator[None]:
    """For what is the caller's, between two steps: if it raises, the run is saved, in one process."""
    try:
        yield
    except Exception:
        if run.learner.place.group is None:
            _save(run)
        raise


def _measured(measure: Callable[[nn.Module], Mapping[str, float]], run: Run) -> dict[str, float]:
    """What the caller measures, as numbers that a file can hold."""
    with _saved_if_it_raises(run):
        found = measure(run.front.before(run.learner.evaluated))
        if not isinstance(found, Mapping):
            raise TypeError(f"measure must return a dict of numbers, got {found!r}")
        try:
            return {str(name): float(value) for name, value in found.items()}
        except (TypeError, ValueError) as error:
            raise TypeError(f"measure must return a dict of numbers, got {found!r}") from error


def take_step(run: Run, batch: Batch) -> None:
    """The next step of a run, which is not counted yet."""
    state = run.state
    train_step(run.learner, batch, state.step, run.pace(state.step), state.current.marks, state.current.step)


def rest_of_epoch(run: Run) -> Generator[Batch]:
    """This process's part of the batches of the steps that are left in the epoch."""
    return run.batches(range(run.state.step, (run.state.epoch + 1) * run.images.steps_per_epoch))


def rate(run: Run, step: int) -> float:
    """The learning rate of a step of the whole run, counted from 0; of several that of the first parameters."""
    return run.learner.rates[0] * run.pace(step).rate


def _save(run: Run) -> None:
    save_run(run.folder, run.learner, run.state)


def _train_epoch(
    run: Run, display: Display, tell: Callable[[StepReport], object] | None, checkpoint_every: float
) -> None:
    """The rest of the current epoch."""
    learner, state, now = run.learner, run.state, run.state.current
    per_epoch, replay = run.images.steps_per_epoch, run.learner.replay
    look_every = 1 if learner.place.device.type == "cpu" else _LOOK_EVERY
    saved = last = time.monotonic()
    with closing(rest_of_epoch(run)) as batches:
        while now.step < per_epoch and not state.stopped:
            with _saved_if_it_raises(run):
                batch = next(batches)
            with interrupts_deferred(learner.place.group is None):
                refused = replay.refused
                take_step(run, batch)
                now.step += 1
                if replay.refused != refused:
                    report(state, display, "graph", f"steps are not recorded as a CUDA graph: {replay.refused}")
                moment = time.monotonic()
                now.seconds, last = now.seconds + moment - last, moment
                looking = now.step % look_every == 0 or now.step == per_epoch
                due = looking and agreed(moment - saved >= checkpoint_every, learner.place.group, learner.place.device)
                if looking:
                    _look(run, display)
                if state.step % monitors.PROBE_EVERY == 0 and run.attacked:
                    probe(run, display)
                    last = time.monotonic()
                if due:
                    _save(run)
                    saved = last = time.monotonic()
            if tell is not None:
                _tell(run, tell)
                last = time.monotonic()


def _tell(run: Run, tell: Callable[[StepReport], object]) -> None:
    """Reports the step that is done."""
    state, marks, place = run.state, run.state.current.marks, run.state.current.step - 1
    hits = marks.hits[place] / run.images.batch_size
    done = StepReport(state.step, state.epoch + 1, rate(run, state.step - 1), marks.losses[place].clone(), hits)
    with _saved_if_it_raises(run):
        tell(done)


def _average_epoch(run: Run) -> None:
    """Takes the epoch's weights into the equal average of those after ``swa_start``; before, it is the last weights.

    Once, also where the run is interrupted before the epoch is closed. An epoch that a collapse ended is left out.
    """
    settings, state, average = run.schedule, run.state, run.learner.average
    if average is None or settings.average != "swa" or state.current.averaged or state.stopped:
        return
    move_average_(average, run.learner.model, 1 / (state.averaged + 1))
    state.averaged += state.epoch >= int(settings.swa_start * settings.epochs)
    state.current.averaged = True


def _look(run: Run, display: Display) -> None:
    """Reads the numbers of the epoch back, refuses to go on after many skipped steps, and shows them."""
    state, now = run.state, run.state.current
    losses = now.marks.losses[: now.step]
    skipped = int(losses.isnan().sum())
    if monitors.too_many_skipped(skipped, run.images.steps_per_epoch):
        raise FloatingPointError(
            f"{skipped} steps of epoch {state.epoch + 1}, the last of them step "
            f"{int(losses.isnan().nonzero()[-1]) + 1}, had an infinite or NaN gradient and were skipped "
            f"(lr up to {max(run.learner.rates)}); a lower lr may help. The last checkpoint is in {run.folder.path}."
        )
    seen = now.step * run.images.batch_size
    accuracy = float(now.marks.hits.sum()) / seen
    display.step(state.step, state.epoch + 1, float(losses.nanmean()), accuracy, seen / now.seconds)


def _close_epoch(run: Run, display: Display, accuracy: dict[str, float], measured: dict[str, float]) -> None:
    """Appends the epoch to the history, moves on to the next one, and saves."""
    state, now, val_set = run.state, run.state.current, run.images.val_set
    images, losses = now.step * run.images.batch_size, now.marks.losses[: now.step]
    skipped = int(losses.isnan().sum())
    row = {
        "epoch": state.epoch + 1,
        "steps": state.step,
        "lr": rate(run, state.step - 1),
        "train": {
            "loss": float(losses.nanmean()),
            "adversarial": float(now.marks.hits.sum()) / images,
            "skipped": skipped,
        },
        "val": accuracy,
        "val_images": 0 if val_set is None else len(val_set),
        "measured": measured,
        "seconds": now.seconds,
        "images_per_second": images / now.seconds,
        "findings": now.findings,
        "stopped": state.stopped,
    }
    state.history.append(row)
    if skipped:
        text = f"{skipped} of {now.step} steps had an infinite or NaN gradient and were skipped"
        report(state, display, monitors.SKIPPED, text)
    state.stopped = state.stopped or _out_of_patience(state, run.settings.patience)
    row["stopped"] = state.stopped
    over = bool(state.stopped) or len(state.history) == run.schedule.epochs
    if gap := monitors.new_robust_overfitting(state.history, over):
        report(state, display, monitors.ROBUST, gap)
    if val_set is not None and (stuck := monitors.new_stuck(state.history, monitors.chance(val_set.labels), over)):
        report(state, display, monitors.STUCK, stuck)
    state.epoch += 1
    start_epoch(state)
    _save(run)


def _out_of_patience(state: State, patience: int | None) -> str:
    best = monitors.best_epoch(state.history)
    if best is None or patience is None or len(state.history) - (best + 1) < patience:
        return ""
    return f"no better PGD accuracy on the validation images for {patience} epochs"
