"""Adversarial training, resumable to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from fastat import graphs
from fastat.data import Batch, Split
from fastat.support.distributed import Group, agreed, rank_of
from fastat.training import monitors
from fastat.training.averaging import move_average_
from fastat.training.config import ConfigError, TrainConfig
from fastat.training.devices import choose_device
from fastat.training.event_log import EventLog
from fastat.training.folder import as_network, save_run
from fastat.training.interrupt import interrupts_deferred
from fastat.training.network import Network
from fastat.training.probes import probe, report, validate
from fastat.training.progress import Display, training_display
from fastat.training.run import Run, open_run
from fastat.training.schedules import learning_rate
from fastat.training.state import State, start_epoch
from fastat.training.step import train_step

_LOOK_EVERY = 25  # steps between two looks at the loss on a GPU: each look waits for the GPU


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    device: str | torch.device | None = None,
    group: Group | None = None,
    split: Split | None = None,
    front: nn.Module | None = None,
    quiet: bool = False,
    graph: bool = True,
    checkpoint_every: float = 300.0,
    tensorboard: bool = False,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    measure_every: int = 1,
) -> Network:
    """Trains a network adversarially and keeps the run in a folder.

    min over w of E [ max over |d| <= eps of CE(w, x + d, y) ] (Madry et al. 2018, equation 2.1): each step finds d by
    the configured attack and descends the configured objective there, by default PGD and the mean of the
    cross-entropies (:mod:`fastat.protocols.objective` has the others). The folder holds config.json, environment.json,
    metrics.jsonl (a line per epoch), checkpoint.pt, and best.pt, the network of the epoch with the best PGD-20 accuracy
    on the validation images.

    If the folder holds an unfinished run of the same configuration, that run is continued. On a CPU, in one process, it
    then ends with the same bits as a run that was never stopped, whenever the old one was killed. A finished run is not
    trained again.

    Args:
        config: what to train.
        folder: the run's folder; made if missing. Processes of a group share it, on several machines too.
        data_root, download: see :func:`fastat.data.load`.
        device: "cpu", "cuda", "cuda:1"; by default the GPU if there is one.
        group: processes of torch.distributed that train together: each takes its part of every batch, with the random
            numbers of its images, and the first one writes. All call this with the same arguments.
        split: images to train on in place of the train half of ``config.data``. A run is continued on the same only.
        front: stands in front of the network wherever this run calls it, in the training, the attacks, the validation
            and ``measure``: a fixed filter of the images, say. It is neither trained nor saved nor returned, and a run
            is continued behind the same only.
        quiet: show nothing while training.
        graph: on a GPU, record each step, or with a group the attack, as a CUDA graph, and the attacks of the
            validation and the monitors; what cannot be recorded runs as it is. False records nothing. The training is
            the same; accuracies on the validation images are, up to rounding.
        checkpoint_every: seconds between two checkpoints within an epoch; 0 saves after every step.
        tensorboard: also write the curves to the folder "tensorboard" of the run.
        measure: called with the network after every epoch, by the first process; the numbers it returns are kept in the
            epoch's line of metrics.jsonl, under "measured". It must leave the network as it found it.
        measure_every: epochs between two of these calls; the last epoch is always measured.

    Returns:
        The network that ``config.select`` chooses.

    Raises:
        FileNotFoundError: the dataset is missing.
        ModuleNotFoundError: tensorboard is asked for and not installed.
        ValueError: a value of the configuration is out of its range or does not fit the data, the device or the number
            of processes, the folder holds a run of another configuration (the message names the fields), of other
            images or behind another front, front has parameters or changes, measure_every < 1, or graph is no bool.
        FloatingPointError: many steps of an epoch were skipped because the gradient was infinite or NaN.
        KeyboardInterrupt: on Ctrl-C, after the step under way and a checkpoint; with a group at once, without one.
    """
    if measure_every < 1:
        raise ValueError(f"measure_every must be at least 1, got {measure_every}")
    if not isinstance(graph, bool):
        raise ValueError(f"graph must be True or False, got {graph!r}")
    if not checkpoint_every >= 0:
        raise ConfigError("checkpoint_every", f"checkpoint_every must be at least 0, got {checkpoint_every}")
    run = open_run(config, Path(folder), data_root, choose_device(device), group, download, split, front)
    run.learner.replay.wanted = graph
    first, epochs, state = rank_of(group) == 0, run.optimizer.epochs, run.state
    total = epochs * run.images.steps_per_epoch
    with training_display(epochs, total, state.step, quiet=quiet or not first) as display:
        log = EventLog(run.folder.path, state.history) if tensorboard and first else None
        try:
            while not run.over or state.current.step > 0:  # a run that a monitor stops has its last epoch to close
                _train_epoch(run, display, checkpoint_every)
                _average_epoch(run)
                accuracy = validate(run, display)
                due = (state.epoch + 1) % measure_every == 0 or state.epoch + 1 == epochs
                judged = run.front.before(run.learner.judged)
                measured = dict(measure(judged)) if measure is not None and due and first else {}
                with interrupts_deferred(group is None):
                    _close_epoch(run, display, accuracy, measured)
                display.epoch(state.history[-1])
                if log is not None:
                    log.write(state.history[-1])
        except KeyboardInterrupt:
            if group is None:
                _save(run)
            raise
        finally:
            for model in (run.learner.network, run.learner.model, run.learner.judged, *run.front.seen.values()):
                if isinstance(model, nn.Module):
                    graphs.forget(model)
            if log is not None:
                log.close()
    if group is not None:
        dist.barrier(group)  # the first process has written the network that all read now
    return as_network(run.folder, run.learner, state)


def take_step(run: Run, batch: Batch) -> None:
    """The next step of a run, which is not counted yet."""
    state = run.state
    train_step(run.learner, batch, state.step, rate(run, state.step), state.current.marks, state.current.step)


def rest_of_epoch(run: Run) -> Iterator[Batch]:
    """This process's part of the batches of the steps that are left in the epoch."""
    return run.batches(range(run.state.step, (run.state.epoch + 1) * run.images.steps_per_epoch))


def rate(run: Run, step: int) -> float:
    """The learning rate of a step of the whole run, counted from 0."""
    return learning_rate(run.optimizer, (step + 0.5) / (run.optimizer.epochs * run.images.steps_per_epoch))


def _save(run: Run) -> None:
    save_run(run.folder, run.learner, run.state)


def _train_epoch(run: Run, display: Display, checkpoint_every: float) -> None:
    """The rest of the current epoch."""
    learner, state, now = run.learner, run.state, run.state.current
    per_epoch, replay = run.images.steps_per_epoch, run.learner.replay
    look_every = 1 if learner.device.type == "cpu" else _LOOK_EVERY
    saved = last = time.monotonic()
    batches = rest_of_epoch(run)
    while now.step < per_epoch and not state.stopped:
        with interrupts_deferred(learner.group is None):
            refused = replay.refused
            take_step(run, next(batches))
            now.step += 1
            if replay.refused != refused:
                report(state, display, "graph", f"steps are not recorded as a CUDA graph: {replay.refused}")
            moment = time.monotonic()
            now.seconds, last = now.seconds + moment - last, moment
            looking = now.step % look_every == 0 or now.step == per_epoch
            due = looking and agreed(moment - saved >= checkpoint_every, learner.group, learner.device)
            if looking:
                _look(run, display)
            if state.step % monitors.PROBE_EVERY == 0 and run.attacked:
                probe(run, display)
                last = time.monotonic()
            if due:
                _save(run)
                saved = last = time.monotonic()


def _average_epoch(run: Run) -> None:
    """Takes the epoch's weights into the equal average of those after ``swa_start``; before, it is the last weights.

    Once, also where the run is interrupted before the epoch is closed. An epoch that a collapse ended is left out.
    """
    settings, state, average = run.optimizer, run.state, run.learner.average
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
            f"(lr up to {run.optimizer.lr}); a lower lr may help. The last checkpoint is in {run.folder.path}."
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
    over = bool(state.stopped) or len(state.history) == run.optimizer.epochs
    if gap := monitors.new_robust_overfitting(state.history, over):
        report(state, display, monitors.ROBUST, gap)
    state.epoch += 1
    start_epoch(state)
    _save(run)


def _out_of_patience(state: State, patience: int | None) -> str:
    best = monitors.best_epoch(state.history)
    if best is None or patience is None or len(state.history) - (best + 1) < patience:
        return ""
    return f"no better PGD accuracy on the validation images for {patience} epochs"
