"""Failures of adversarial training, made visible while it runs.

Catastrophic overfitting: the network learns to withstand the single step it is trained on and nothing else; within a
few iterations its accuracy under PGD falls to about zero while that under FGSM stays high (Wong, Rice, Kolter 2020).
Robust overfitting: past its best epoch the robust accuracy on unseen images falls slowly (Rice, Wong, Kolter 2020).
Nothing learnt: with a radius that is large for the data a network can predict one class for ever.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PROBE_EVERY = 100  # steps: a collapse is seen within 200 iterations
PROBE_IMAGES = 128
_LASTING = 5  # epochs
_ENOUGH = 50  # validation images that can tell learning from chance

CATASTROPHIC, ROBUST, SKIPPED = "catastrophic overfitting", "robust overfitting", "skipped steps"
STUCK = "nothing learnt"

Accuracy = Mapping[str, float]
"""Accuracies by the names of :func:`fastat.evaluation.evaluate`: "fgsm" and one attack "pgd-STEPS" among them."""


@dataclass
class Watch:
    """What the monitor of catastrophic overfitting remembers.

    Attributes:
        best: the best PGD accuracy of its probes so far.
        collapsed: whether the last probe found the network collapsed.
        rollbacks: how often the run went back.
    """

    best: float = 0.0
    collapsed: bool = False
    rollbacks: int = 0


def pgd_of(accuracy: Accuracy) -> float:
    """The accuracy under PGD."""
    return next(value for name, value in accuracy.items() if name.startswith("pgd"))


def collapsed(best: float, now: Accuracy) -> bool:
    """Whether the accuracies are those of catastrophic overfitting, given the best one under PGD so far.

    One of two signs. PGD's has fallen below half of its best, and FGSM's is above it by more than 20 points and by more
    than it itself is. Or FGSM's is above 40% and PGD's below a third of it, whatever was before. A network that FGSM
    breaks as well has not collapsed in this sense.
    """
    pgd, fgsm = pgd_of(now), now["fgsm"]
    fallen = best >= 0.1 and pgd < best / 2 and fgsm - pgd > max(0.2, pgd)
    return fallen or (fgsm > 0.4 and pgd < fgsm / 3)


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int | None:
    """Index of the first epoch with the highest PGD accuracy on the validation images; None without such images."""
    if not history or not history[0]["val"]:
        return None
    robust = [pgd_of(row["val"]) for row in history]
    return robust.index(max(robust))


def new_robust_overfitting(history: Sequence[Mapping[str, Any]], over: bool) -> str | None:
    """A sentence on how far the robust accuracy is below its best, if it is by more than chance would explain.

    If it is so in each of the last five epochs, that is, or in the last one of a run that is over: a dip while the
    learning rate is high is none. None also where an earlier epoch's findings have one: it is said once.

    The bound is 1.96 standard errors of the difference of two independent accuracies. They are of the same images,
    which makes it less likely to speak than a paired test would be; that the best is the best of many epochs makes it
    more likely.
    """
    best = best_epoch(history)
    if best is None or any(found["monitor"] == ROBUST for row in history for found in row["findings"]):
        return None
    recent = history[-1:] if over else history[-_LASTING:]
    n, top, now = history[-1]["val_images"], pgd_of(history[best]["val"]), max(pgd_of(row["val"]) for row in recent)
    error = math.sqrt((top * (1 - top) + now * (1 - now)) / n)
    if top - now <= 1.96 * error or (len(history) - (best + 1) < _LASTING and not over):
        return None
    last = pgd_of(history[-1]["val"])
    return (
        f"PGD accuracy on the {n} validation images is {last:.1%} after epoch {history[-1]['epoch']}, "
        f"{100 * (top - last):.1f} points below that of epoch {history[best]['epoch']}"
    )


def chance(labels: Tensor) -> float:
    """The accuracy of the best constant prediction of these labels, int64 ``[N]``."""
    return int(torch.bincount(labels).max()) / len(labels)


def new_stuck(history: Sequence[Mapping[str, Any]], chance: float, over: bool) -> str | None:
    """A sentence on a network that has learnt nothing: its clean accuracy on the validation images is no better than
    ``chance``, that of the best constant prediction, by more than chance would explain (1.96 standard errors).

    If it is so after two epochs in a row, that is, or after the last one. None where an earlier epoch has said so, or
    where fewer than 50 images could tell.
    """
    n = history[-1]["val_images"]
    if n < _ENOUGH or any(found["monitor"] == STUCK for row in history for found in row["findings"]):
        return None
    bound = chance + 1.96 * math.sqrt(chance * (1 - chance) / n)
    if (len(history) < 2 and not over) or any(row["val"]["clean"] > bound for row in history[-2:]):
        return None
    now = history[-1]["val"]["clean"]
    return (
        f"accuracy on the {n} clean validation images is {now:.1%} after epoch {history[-1]['epoch']}, at chance: "
        f"one class for all of them has {chance:.1%}. A smaller eps or another lr may help"
    )


def too_many_skipped(skipped: int, steps: int) -> bool:
    """Whether an epoch of so many steps should not go on: all of them had no finite gradient, or more than 3 and 5%."""
    return skipped == steps or skipped > max(3, 0.05 * steps)
