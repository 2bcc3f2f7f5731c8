"""Adversarial training, resumable to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from fastat.data import Batch, Dataset, Split
from fastat.evaluation import evaluate
from fastat.graphs import recordings as graphs
from fastat.support.distributed import Group, agreed, rank_of, size_of, sum_
from fastat.support.keyed import keyed_permutation
from fastat.training import monitors
from fastat.training.averaging import move_average_
from fastat.training.config import ConfigError, TrainConfig
from fastat.training.event_log import EventLog
from fastat.training.interrupt import interrupts_deferred
from fastat.training.network import Network, choose_device
from fastat.training.progress import Display, training_display
from fastat.training.run import RECORDED, Run, open_run, start_epoch
from fastat.training.saving import as_network, go_back, save_run, snapshot
from fastat.training.step import rate, train_step

WATCHED = ("fgsm", "pgd-20")
"""What the validation images are attacked by after every epoch."""

_PROBES = ("fgsm", "pgd-10")
_MOST_ROLLBACKS = 5
_ORDER = 0x0D3  # the purpose in the key of the order of the images
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
    run.graph = graph
    first = rank_of(group) == 0
    total = config.epochs * run.steps_per_epoch
    with training_display(config.epochs, total, run.global_step, quiet=quiet or not first) as display:
        log = EventLog(run.folder, run.history) if tensorboard and first else None
        try:
            while not run.over or run.step > 0:  # a run that a monitor stops has its last epoch to close
                _train_epoch(run, display, checkpoint_every)
                _average_epoch(run)
                accuracy = _validate(run, display)
                due = (run.epoch + 1) % measure_every == 0 or run.epoch + 1 == config.epochs
                measured = dict(measure(run.behind_front(run.judged))) if measure is not None and due and first else {}
                with interrupts_deferred(group is None):
                    _close_epoch(run, display, accuracy, measured)
                display.epoch(run.history[-1])
                if log is not None:
                    log.write(run.history[-1])
        except KeyboardInterrupt:
            if group is None:
                save_run(run)
            raise
        finally:
            for model in (run.network, run.model, run.judged, *run.seen.values()):
                if isinstance(model, nn.Module):
                    graphs.forget(model)
            if log is not None:
                log.close()
    if group is not None:
        dist.barrier(group)  # the first process has written the network that all read now
    return as_network(run)


def _train_epoch(run: Run, display: Display, checkpoint_every: float) -> None:
    """The rest of the current epoch."""
    look_every = 1 if run.device.type == "cpu" else _LOOK_EVERY
    saved = last = time.monotonic()
    batches = _batches(run)
    while run.step < run.steps_per_epoch and not run.stopped:
        with interrupts_deferred(run.group is None):
            recording = run.recording
            train_step(run, next(batches))
            run.step += 1
            if run.recording not in (recording, RECORDED):
                _report(run, display, "graph", f"steps are not recorded as a CUDA graph: {run.recording}")
            now = time.monotonic()
            run.seconds, last = run.seconds + now - last, now
            looking = run.step % look_every == 0 or run.step == run.steps_per_epoch
            due = looking and agreed(now - saved >= checkpoint_every, run.group, run.device)
            if looking:
                _look(run, display)
            if run.global_step % monitors.PROBE_EVERY == 0 and run.config.attack != "none":
                _probe(run, display, _accuracy(run, run.probe_set, _PROBES, of=run.model), len(run.probe_set))
                last = time.monotonic()
            if due:
                save_run(run)
                saved = last = time.monotonic()


def _batches(run: Run) -> Iterator[Batch]:
    """This process's part of the batches of the steps that are left in the epoch.

    A batch that is replayed comes several times in a row, and a pass over the images takes as many epochs then.
    """
    config, per_pass = run.config, run.steps_per_epoch
    replays = config.replays if config.attack == "free" else 1
    steps = range(run.global_step, (run.epoch + 1) * per_pass)
    for number, group in groupby(steps, key=lambda step: step // replays // per_pass):
        in_pass = list(group)
        first = in_pass[0] // replays - number * per_pass
        order = keyed_permutation(len(run.train_set), config.seed, number, _ORDER)
        rows = order[: per_pass * run.batch_size].view(per_pass, run.batch_size)[:, run.part]
        times = [len(list(same)) for _, same in groupby(in_pass, key=lambda step: step // replays)]
        found = run.train_set.batches(
            rows[first : first + len(times)].flatten(),
            rows.shape[1],
            augment=config.augment,
            cutout=config.cutout,
            seed=config.seed,
            epoch=number,
            device=run.device,
        )
        for count, batch in zip(times, found, strict=True):
            yield from [batch] * count


def _average_epoch(run: Run) -> None:
    """Takes the epoch's weights into the equal average of those after ``swa_start``; before, it is the last weights.

    Once, also where the run is interrupted before the epoch is closed. An epoch that a collapse ended is left out.
    """
    if run.average is None or run.config.average != "swa" or run.closing or run.stopped:
        return
    move_average_(run.average, run.model, 1 / (run.averaged + 1))
    run.averaged += run.epoch >= int(run.config.swa_start * run.config.epochs)
    run.closing = True


def _validate(run: Run, display: Display) -> dict[str, float]:
    """Accuracies on the validation images; a probe too, if they are those of the very weights that are trained."""
    if run.val_set is None:
        return {}
    accuracy = _accuracy(run, run.val_set, WATCHED)
    if run.average is None and run.config.attack != "none":
        _probe(run, display, accuracy, len(run.val_set))
    return accuracy


def _look(run: Run, display: Display) -> None:
    """Reads the numbers of the epoch back, refuses to go on after many skipped steps, and shows them."""
    losses = run.losses[: run.step]
    skipped = int(losses.isnan().sum())
    if monitors.too_many_skipped(skipped, run.steps_per_epoch):
        raise FloatingPointError(
            f"{skipped} steps of epoch {run.epoch + 1}, the last of them step {int(losses.isnan().nonzero()[-1]) + 1}, "
            f"had an infinite or NaN gradient and were skipped (lr up to {run.config.lr}); a lower lr may help. The "
            f"last checkpoint is in {run.folder}."
        )
    accuracy = float(run.hits.sum()) / (run.step * run.batch_size)
    rate = run.step * run.batch_size / run.seconds
    display.step(run.global_step, run.epoch + 1, float(losses.nanmean()), accuracy, rate)


def _probe(run: Run, display: Display, found: Mapping[str, float], images: int) -> None:
    """Looks at accuracies for catastrophic overfitting and does what the configuration says about it."""
    watch = run.watch
    if not monitors.collapsed(watch.best, found):
        watch.best, watch.collapsed = max(watch.best, monitors.pgd_of(found)), False
        if run.config.on_collapse == "rollback":
            run.sound = snapshot(run)
        return
    if watch.collapsed:
        return
    text = (
        f"seen at step {run.global_step}: PGD accuracy {monitors.pgd_of(found):.1%} after {watch.best:.1%} at best, "
        f"FGSM accuracy {found['fgsm']:.1%} ({images} images)"
    )
    watch.collapsed = True
    if run.config.on_collapse == "stop" or watch.rollbacks == _MOST_ROLLBACKS:
        run.stopped = monitors.CATASTROPHIC
        text += "; stopped"
    elif run.config.on_collapse == "rollback" and run.sound:
        go_back(run)
        watch.rollbacks, watch.collapsed = watch.rollbacks + 1, False
        text += "; back to the last sound weights"
    _report(run, display, monitors.CATASTROPHIC, text)


def _report(run: Run, display: Display, monitor: str, text: str) -> None:
    run.findings.append({"monitor": monitor, "step": run.global_step, "text": text})
    display.finding(run.findings[-1])


def _accuracy(run: Run, images: Dataset, attacks: tuple[str, ...], *, of: nn.Module | None = None) -> dict[str, float]:
    """Accuracies on the images, each process measuring its share of them."""
    share = images.take(torch.arange(rank_of(run.group), len(images), size_of(run.group), device=run.device))
    counts = torch.zeros(1 + len(attacks), device=run.device)
    if len(share) > 0:
        config = run.config
        found = evaluate(
            run.behind_front(run.judged if of is None else of),
            share.pixels(),
            share.labels,
            config.eps,
            config.norm,
            attacks=attacks,
            bounds=config.bounds,
            seed=config.seed,
            sample_ids=share.ids,
            graph="auto" if run.graph else False,
        )
        counts += torch.tensor([found.accuracy[name] for name in ("clean", *attacks)], device=run.device) * len(share)
    sum_([counts], run.group)
    numbers = (counts.round() / len(images)).tolist()
    return dict(zip(("clean", *attacks), numbers, strict=True))


def _close_epoch(run: Run, display: Display, accuracy: dict[str, float], measured: dict[str, float]) -> None:
    """Appends the epoch to the history, moves on to the next one, and saves."""
    images, losses = run.step * run.batch_size, run.losses[: run.step]
    skipped = int(losses.isnan().sum())
    row = {
        "epoch": run.epoch + 1,
        "steps": run.global_step,
        "lr": rate(run, run.global_step - 1),
        "train": {
            "loss": float(losses.nanmean()),
            "adversarial": float(run.hits.sum()) / images,
            "skipped": skipped,
        },
        "val": accuracy,
        "val_images": 0 if run.val_set is None else len(run.val_set),
        "measured": measured,
        "seconds": run.seconds,
        "images_per_second": images / run.seconds,
        "findings": run.findings,
        "stopped": run.stopped,
    }
    run.history.append(row)
    if skipped:
        text = f"{skipped} of {run.step} steps had an infinite or NaN gradient and were skipped"
        _report(run, display, monitors.SKIPPED, text)
    run.stopped = run.stopped or _out_of_patience(run)
    row["stopped"] = run.stopped
    over = bool(run.stopped) or len(run.history) == run.config.epochs
    if gap := monitors.new_robust_overfitting(run.history, over):
        _report(run, display, monitors.ROBUST, gap)
    run.epoch += 1
    start_epoch(run)
    save_run(run)


def _out_of_patience(run: Run) -> str:
    best, patience = monitors.best_epoch(run.history), run.config.patience
    if best is None or patience is None or len(run.history) - (best + 1) < patience:
        return ""
    return f"no better PGD accuracy on the validation images for {patience} epochs"
