"""Adversarial training, resumable to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from fastat.awp import perturbed_weights
from fastat.config import TrainConfig
from fastat.data import augment
from fastat.evaluation import evaluate
from fastat.interrupt import interrupts_deferred
from fastat.keyed import derive_seed, keyed_permutation
from fastat.progress import Display, training_display
from fastat.protocols import AttackedBatch, attack_of, objective_of
from fastat.run import Network, Run, choose_device, open_run, save_run, start_epoch

MONITORED = ("fgsm", "pgd-20")

_ORDER, _ATTACK = 0x0D3, 0xA77  # purposes in the keys of the random numbers
_LOOK_EVERY = 25  # steps between two looks at the loss on a GPU: each look waits for the GPU


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str | torch.device | None = None,
    checkpoint_every: float = 300.0,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    measure_every: int = 1,
) -> Network:
    """Trains a network adversarially and keeps the run in a folder.

    min over w of E [ max over |d| <= eps of CE(w, x + d, y) ] (Madry et al. 2018, equation 2.1): each step finds d by
    the configured attack and descends the configured objective there, by default PGD and the mean of the
    cross-entropies (:mod:`fastat.protocols` has the others). The folder holds config.json, metrics.jsonl (a line per
    epoch) and checkpoint.pt.

    If the folder holds an unfinished run of the same configuration, that run is continued. On a CPU it then ends with
    the same bits as a run that was never stopped, whenever the old one was killed. A finished run is not trained again.

    Args:
        config: what to train.
        folder: the run's folder; made if missing.
        data_root: see :func:`fastat.data.load`.
        device: "cpu", "cuda", "cuda:1"; by default the GPU if there is one.
        checkpoint_every: seconds between two checkpoints within an epoch; 0 saves after every step.
        measure: called with the network after every epoch; the numbers it returns are kept in the epoch's line of
            metrics.jsonl, under "measured". It must leave the network as it found it.
        measure_every: epochs between two of these calls; the last epoch is always measured.

    Raises:
        FileNotFoundError: the dataset is missing.
        ValueError: a value of the configuration is out of its range, the folder holds a run of another configuration
            (the message names the fields), or measure_every < 1.
        FloatingPointError: the loss is infinite or NaN; the message names the step.
        KeyboardInterrupt: on Ctrl-C, after the step under way and a checkpoint.
    """
    if measure_every < 1:
        raise ValueError(f"measure_every must be at least 1, got {measure_every}")
    run = open_run(config, Path(folder), data_root, choose_device(device))
    total = config.epochs * run.steps_per_epoch
    try:
        with training_display(config.epochs, total, run.global_step) as display:
            while run.epoch < config.epochs:
                _train_epoch(run, display, checkpoint_every)
                accuracy = _monitor(run)
                due = (run.epoch + 1) % measure_every == 0 or run.epoch + 1 == config.epochs
                measured = dict(measure(run.model)) if measure is not None and due else {}
                with interrupts_deferred():
                    _close_epoch(run, accuracy, measured)
                display.epoch(run.history[-1])
    except KeyboardInterrupt:
        if bool(run.losses[: run.step].isfinite().all()):  # on a GPU nobody may have looked yet
            save_run(run)
        raise
    return Network(run.model.eval(), config, run.train_set.title, run.train_set.classes, run.history)


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The learning rate when the fraction ``progress`` of the run, in [0, 1], is over.

    cyclic: linear from 0 to the peak at 0.4 and back to 0 (Smith 2017, as Wong et al. 2020 use it). cosine: half a
    cosine from the peak to 0 (Loshchilov and Hutter 2017, without restarts). piecewise: divided by ten at 0.5 and again
    at 0.75, the schedule on which Rice, Wong and Kolter (2020) saw robust overfitting.
    """
    if config.schedule == "piecewise":
        return config.lr * (1.0 if progress < 0.5 else 0.1 if progress < 0.75 else 0.01)
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
    peak = 0.4
    return config.lr * min(progress / peak, (1 - progress) / (1 - peak))


def _train_epoch(run: Run, display: Display, checkpoint_every: float) -> None:
    """The rest of the current epoch."""
    order = keyed_permutation(len(run.train_set), run.config.seed, run.epoch, _ORDER).to(run.device)
    look_every = 1 if run.device.type == "cpu" else _LOOK_EVERY
    saved = last = time.monotonic()
    while run.step < run.steps_per_epoch:
        with interrupts_deferred():
            _train_step(run, order[run.step * run.batch_size :][: run.batch_size])
            run.step += 1
            now = time.monotonic()
            run.seconds, last = run.seconds + now - last, now
            due = now - saved >= checkpoint_every
            if due or run.step % look_every == 0 or run.step == run.steps_per_epoch:
                _look(run, display)
            if due:
                save_run(run)
                saved = last = time.monotonic()


def _train_step(run: Run, index: Tensor) -> None:
    """Attacks the images at these positions of the training set and descends the loss at the result."""
    config, step = run.config, run.global_step
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, (step + 0.5) / (config.epochs * run.steps_per_epoch))
    batch = run.train_set.take(index)
    x = batch.pixels(augment(batch.images, batch.ids, config.augment, config.seed, run.epoch))
    if run.device.type == "cuda":
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=_uses_bf16(config, run.device)):
        run.model.train(config.attack_mode == "train")
        seed = derive_seed(config.seed, step, _ATTACK)
        x_adv = attack_of(config)(run.model, x, batch.labels, seed=seed, sample_ids=batch.ids)
        run.model.train()
        objective = partial(objective_of(config), run.model, AttackedBatch(x, x_adv, batch.labels, batch.ids, seed))
        with perturbed_weights(run.model, lambda: objective()[0], config.awp):
            loss, logits = objective()
            run.optimizer.zero_grad()
            loss.backward()
            run.optimizer.step()
    run.losses[run.step] = loss.detach()
    run.hits[run.step] = (logits.detach().argmax(1) == batch.labels).sum()


def _look(run: Run, display: Display) -> None:
    """Reads the numbers of the epoch back, refuses to go on after a loss that is not finite, and shows them."""
    losses = run.losses[: run.step]
    if not bool(losses.isfinite().all()):
        bad = int((~losses.isfinite()).nonzero()[0])
        raise FloatingPointError(
            f"the loss is {float(losses[bad])} in step {bad + 1} of epoch {run.epoch + 1} "
            f"(lr up to {run.config.lr}); a lower lr may help. The last checkpoint in {run.folder} is from before it."
        )
    accuracy = int(run.hits.sum()) / (run.step * run.batch_size)
    rate = run.step * run.batch_size / run.seconds
    display.step(run.global_step, run.epoch + 1, float(losses.mean()), accuracy, rate)


def _monitor(run: Run) -> dict[str, float]:
    """Accuracies on the test images that the curves show."""
    some = run.monitor_set
    seed = run.config.seed
    found = evaluate(
        run.model,
        some.pixels(),
        some.labels,
        run.config.eps,
        run.config.norm,
        attacks=MONITORED,
        seed=seed,
        sample_ids=some.ids,
    )
    return found.accuracy


def _close_epoch(run: Run, accuracy: dict[str, float], measured: dict[str, float]) -> None:
    """Appends the epoch to the history, moves on to the next one, and saves."""
    images = run.steps_per_epoch * run.batch_size
    row = {
        "epoch": run.epoch + 1,
        "steps": (run.epoch + 1) * run.steps_per_epoch,
        "lr": run.optimizer.param_groups[0]["lr"],
        "train": {"loss": float(run.losses.mean()), "adversarial": int(run.hits.sum()) / images},
        "test": accuracy,
        "test_images": len(run.monitor_set),
        "measured": measured,
        "seconds": run.seconds,
        "images_per_second": images / run.seconds,
    }
    run.history.append(row)
    run.epoch += 1
    start_epoch(run)
    save_run(run)


def _uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"
