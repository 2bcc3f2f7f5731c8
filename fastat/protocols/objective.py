"""Training protocols as data: an attack, an objective, and the names that the literature has for some pairs of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor

from fastat.attacks import fgsm, pgd
from fastat.graphs import Graph
from fastat.kernels.arguments import widened
from fastat.kernels.ops import random_start
from fastat.models import Model, uncompiled, with_features
from fastat.objectives import (
    benign_loss,
    gradient_misalignment,
    holistic_cross_entropy,
    holistic_loss,
    mart_loss,
    trades_loss,
)
from fastat.objectives.holistic import NotFiniteError
from fastat.support.distributed import Group

if TYPE_CHECKING:
    from fastat.training import TrainConfig

ProtocolName = Literal[
    "standard", "pgd-at", "fgsm-at", "rs-fgsm", "n-fgsm", "gradalign", "free", "trades", "mart", "hr", "bat"
]
AttackName = Literal["none", "pgd", "pgd-kl", "fgsm", "rs-fgsm", "n-fgsm", "free"]
LossName = Literal["cross-entropy", "trades", "mart"]
ObjectiveName = Literal["mean", "holistic", "benign"]

PROTOCOLS: Mapping[ProtocolName, Mapping[str, str | float]] = {
    "standard": {"attack": "none"},
    "pgd-at": {},  # Madry et al. 2018
    "fgsm-at": {"attack": "fgsm"},  # Goodfellow, Shlens, Szegedy 2015
    "rs-fgsm": {"attack": "rs-fgsm"},  # Wong, Rice, Kolter 2020
    "n-fgsm": {"attack": "n-fgsm"},  # de Jorge et al. 2022
    "gradalign": {"attack": "fgsm", "grad_align": 0.2},  # Andriushchenko and Flammarion 2020
    "free": {"attack": "free"},  # Shafahi et al. 2019
    "trades": {"attack": "pgd-kl", "loss": "trades", "attack_mode": "eval"},  # Zhang et al. 2019
    "mart": {"loss": "mart", "attack_mode": "eval", "lr": 0.01},  # Wang et al. 2020
    "hr": {"objective": "holistic", "attack_mode": "eval"},  # Bennouna, Lucas, Van Parys 2023
    "bat": {"objective": "benign", "attack_mode": "eval"},  # Xu et al., benign adversarial training
}
"""What each name sets apart from PGD training on the cross-entropy. The rest is free: any attack goes with any loss of
the samples and any objective over them, so HR on N-FGSM is ``protocol="hr", attack="n-fgsm"``, BAT with TRADES
``protocol="bat", loss="trades", attack="pgd-kl"``.

The mode of the network under attack is that of the authors' code, where there is some: Madry et al. and those who train
in a single step attack in train mode, TRADES and MART in eval mode. MART's learning rate is that of
its authors too: its boosted cross-entropy has the larger gradients."""

PROTOCOL_FIELDS = ("attack", "loss", "objective", "attack_mode", "grad_align")
"""The fields of a configuration that make a protocol; a learning rate that goes with one does not."""

TrainingAttack = Callable[..., Tensor]
"""``(model, x, y, seed=, sample_ids=) -> x_adv``"""


@dataclass(frozen=True)
class AttackedBatch:
    """What an objective sees: clean and attacked images [B, C, H, W], labels and ids [B], the seed of this step.

    With a process group the batch is spread over its processes, and this is the part of one of them.
    """

    x: Tensor
    x_adv: Tensor
    y: Tensor
    ids: Tensor
    seed: int | Tensor
    group: Group | None = None


Objective = Callable[[Model, AttackedBatch], tuple[Tensor, Tensor]]
"""``(model, batch) -> (loss, 0-d with gradient; logits [B, C] of the attacked images)``, in float32, or in float64 for
a model that is."""

_TRADES_NOISE = 1e-3  # the authors start from normal noise of this size; here it is uniform

# noise as a multiple of eps, step as a multiple of eps, whether the result is clipped to the ball
_SINGLE_STEP: Mapping[str, tuple[float, float, bool]] = {
    "fgsm": (0.0, 1.0, True),
    "rs-fgsm": (1.0, 1.25, True),
    "n-fgsm": (2.0, 1.0, False),
}


def attack_of(config: TrainConfig, graph: Graph = False) -> TrainingAttack:
    """The attack that a run trains on.

    Without a step size of its own a single step has that of its paper; those of PGD are 2.5 eps / steps, in TRADES and
    MART too (whose authors take 0.007 for eps 0.031 and ten steps).

    With ``graph`` it may be recorded (:mod:`fastat.graphs`).

    Not for "free", whose perturbation is moved by the step of the training itself (:mod:`fastat.training.step`).
    """
    # the dataset was checked when it was made; on a GPU a check of every batch would wait for it
    if config.attack == "pgd":
        return partial(
            pgd,
            eps=config.eps,
            step_size=config.step_size,
            steps=config.attack_steps,
            norm=config.norm,
            bounds=config.bounds,
            graph=graph,
            validate=False,
        )
    if config.attack == "none":
        return lambda model, x, y, seed, sample_ids: x
    if config.attack == "pgd-kl":
        return partial(_trades_attack, config, graph)
    noise, step, clip = _SINGLE_STEP[config.attack]
    step_size = step * config.eps if config.step_size is None else config.step_size
    return partial(
        fgsm, eps=config.eps, step_size=step_size, norm=config.norm, bounds=config.bounds, noise=noise, clip=clip,
        graph=graph, validate=False,
    )  # fmt: skip


def objective_of(config: TrainConfig) -> Objective:
    """What a run descends on its attacked batches: one number of the losses of the samples.

    ================= ================================================================================================
    ``loss``
    ``cross-entropy`` of the attacked images (Madry et al. 2018, equation 2.1)
    ``trades``        :func:`fastat.trades_loss`, clean and attacked images in two passes
    ``mart``          :func:`fastat.mart_loss`, likewise
    ``objective``
    ``mean``          the mean of the losses
    ``holistic``      their HR loss, :func:`fastat.holistic_loss`
    ``benign``        reweighted, and discriminating features: :func:`fastat.benign_loss`, on the
                      input of the network's linear layer
    ================= ================================================================================================

    Label smoothing is in the cross-entropies that are descended, that of the clean images in TRADES; its divergence and
    the attacks have none. With ``grad_align`` its multiple of
    :func:`fastat.gradient_misalignment` is added. "holistic" and "benign" are of the global batch.
    """
    chosen = partial(_objective, config)
    return partial(_with_alignment, config, chosen) if config.grad_align > 0 else chosen


def describe(config: TrainConfig) -> str:
    """The training in the words of a title: "PGD-10 adversarial training", "HR (alpha 0.05, r 0.1) on N-FGSM"."""
    attack = f"PGD-{config.attack_steps}" if config.attack.startswith("pgd") else config.attack.upper()
    attack = {"none": "clean images", "free": f"Free (m = {config.replays})"}.get(config.attack, attack)
    loss = {"trades": f"TRADES (beta {config.trades_beta:g})", "mart": f"MART (lambda {config.mart_lambda:g})"}
    on = f"{loss[config.loss]} on {attack}" if config.loss in loss else attack
    if config.objective == "holistic":
        order = "" if config.order == "hd" else f", order {config.order}"
        text = f"HR (alpha {config.alpha:g}, r {config.r:g}{order}) on {on}"
    elif config.objective == "benign":
        text = f"BAT (gamma {config.gamma:g}, beta {config.beta:g}) on {on}"
    elif config.loss in loss:
        text = on
    else:
        text = "standard training" if config.attack == "none" else f"{attack} adversarial training"
    text += f" with GradAlign ({config.grad_align:g})" if config.grad_align else ""
    text += f" with AWP ({config.awp:g})" if config.awp else ""
    text += f" with {config.average.upper()}" if config.average != "none" else ""
    return text + (f", {100 * config.label_noise:g}% of the training labels flipped" if config.label_noise else "")


def _trades_attack(
    config: TrainConfig, graph: Graph, model: Model, x: Tensor, y: Tensor, seed: int | Tensor, sample_ids: Tensor
) -> Tensor:
    """PGD on the divergence from the clean prediction, which has no gradient at x itself: from a point close by."""
    lower, upper = config.bounds or (None, None)
    start = random_start(x, min(_TRADES_NOISE, config.eps), "linf", seed, sample_ids, lower, upper)
    return pgd(
        model, x, y, config.eps, config.step_size, config.attack_steps, config.norm, loss="kl", start=start,
        bounds=config.bounds, sample_ids=sample_ids, graph=graph, validate=False,
    )  # fmt: skip


def _objective(config: TrainConfig, model: Model, batch: AttackedBatch) -> tuple[Tensor, Tensor]:
    clean = None if config.loss == "cross-entropy" else widened(model(batch.x))
    if config.objective == "benign":
        output, features = with_features(model)(batch.x_adv)
        logits = widened(output)
        constants = (config.gamma, config.beta, config.tau, config.positives)
        losses = None if _fuses(config) else _sample_losses(config, clean, logits, batch.y)
        return benign_loss(logits, widened(features), batch.y, *constants, losses=losses, group=batch.group), logits
    logits = widened(model(batch.x_adv))
    if config.objective == "holistic":
        return _holistic(config, clean, logits, batch), logits
    return _sample_losses(config, clean, logits, batch.y).mean(), logits


def _fuses(config: TrainConfig) -> bool:
    """Whether the losses are those that HR and BAT make themselves, with their gradient in one pass."""
    return config.loss == "cross-entropy" and config.label_smoothing == 0


def _sample_losses(config: TrainConfig, clean: Tensor | None, logits: Tensor, y: Tensor) -> Tensor:
    """[B], of the configured loss."""
    smoothing = config.label_smoothing
    if clean is None:
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
    if config.loss == "trades":
        return trades_loss(clean, logits, y, config.trades_beta, label_smoothing=smoothing, reduction="none")
    return mart_loss(clean, logits, y, config.mart_lambda, reduction="none")


def _holistic(config: TrainConfig, clean: Tensor | None, logits: Tensor, batch: AttackedBatch) -> Tensor:
    budgets = (config.alpha, config.r, config.order)
    try:
        if _fuses(config):
            return holistic_cross_entropy(logits, batch.y, *budgets, group=batch.group)
        return holistic_loss(_sample_losses(config, clean, logits, batch.y), *budgets, group=batch.group)
    except NotFiniteError:  # which CUDA does not raise: the training skips the step on both
        return (math.nan * logits).sum()


def _with_alignment(
    config: TrainConfig, objective: Objective, model: Model, batch: AttackedBatch
) -> tuple[Tensor, Tensor]:
    loss, logits = objective(model, batch)
    # compiled code has no second derivative
    lower, upper = config.bounds or (None, None)
    misaligned = gradient_misalignment(
        uncompiled(model), batch.x, batch.y, config.eps, seed=batch.seed, sample_ids=batch.ids, lower=lower, upper=upper
    )
    return loss + config.grad_align * misaligned, logits
