"""Training protocols as data: an attack, an objective, and the names that the literature has for some pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fastat.attacks import fgsm, pgd
from fastat.features import with_features
from fastat.objectives import benign_loss, gradient_misalignment, holistic_cross_entropy, mart_loss, trades_loss
from fastat.ops import random_start

if TYPE_CHECKING:
    from fastat.config import TrainConfig

ProtocolName = Literal["pgd-at", "standard", "fgsm-at", "rs-fgsm", "n-fgsm", "gradalign", "trades", "mart", "hr", "bat"]
AttackName = Literal["pgd", "pgd-kl", "fgsm", "rs-fgsm", "n-fgsm", "none"]
ObjectiveName = Literal["cross-entropy", "trades", "mart", "holistic", "benign"]

PROTOCOLS: Mapping[str, Mapping[str, str | float]] = {
    "pgd-at": {},  # Madry et al. 2018
    "standard": {"attack": "none"},
    "fgsm-at": {"attack": "fgsm"},  # Goodfellow, Shlens, Szegedy 2015
    "rs-fgsm": {"attack": "rs-fgsm"},  # Wong, Rice, Kolter 2020
    "n-fgsm": {"attack": "n-fgsm"},  # de Jorge et al. 2022
    "gradalign": {"attack": "fgsm", "grad_align": 0.2},  # Andriushchenko and Flammarion 2020
    "trades": {"attack": "pgd-kl", "objective": "trades"},  # Zhang et al. 2019
    "mart": {"objective": "mart"},  # Wang et al. 2020
    "hr": {"objective": "holistic"},  # Bennouna, Lucas, Van Parys 2023
    "bat": {"objective": "benign"},  # Xu et al., benign adversarial training
}
"""What each name sets apart from PGD training on the cross-entropy. The rest is free: any attack goes with any
objective, so HR on N-FGSM is ``protocol="hr", attack="n-fgsm"``."""

TrainingAttack = Callable[..., Tensor]
"""``(model, x, y, seed=, sample_ids=) -> x_adv``"""


@dataclass(frozen=True)
class AttackedBatch:
    """What an objective sees: clean and attacked images [B, C, H, W], labels and ids [B], the seed of this step."""

    x: Tensor
    x_adv: Tensor
    y: Tensor
    ids: Tensor
    seed: int


Objective = Callable[[nn.Module, AttackedBatch], tuple[Tensor, Tensor]]
"""``(model, batch) -> (loss, 0-d float32 with gradient; logits [B, C] of the attacked images)``."""

_TRADES_NOISE = 1e-3  # the authors start from normal noise of this size; here it is uniform

# noise as a multiple of eps, step as a multiple of eps, whether the result is clipped to the ball
_SINGLE_STEP: Mapping[str, tuple[float, float, bool]] = {
    "fgsm": (0.0, 1.0, True),
    "rs-fgsm": (1.0, 1.25, True),
    "n-fgsm": (2.0, 1.0, False),
}


def attack_of(config: TrainConfig) -> TrainingAttack:
    """The attack that a run trains on; without a step size of its own, with that of its paper."""
    # the dataset was checked when it was made; on a GPU a check of every batch would wait for it
    if config.attack == "pgd":
        return partial(
            pgd,
            eps=config.eps,
            step_size=config.step_size,
            steps=config.attack_steps,
            norm=config.norm,
            validate=False,
        )
    if config.attack == "none":
        return lambda model, x, y, seed, sample_ids: x
    if config.attack == "pgd-kl":
        return partial(_trades_attack, config)
    noise, step, clip = _SINGLE_STEP[config.attack]
    step_size = step * config.eps if config.step_size is None else config.step_size
    return partial(fgsm, eps=config.eps, step_size=step_size, norm=config.norm, noise=noise, clip=clip, validate=False)


def objective_of(config: TrainConfig) -> Objective:
    """The loss that a run descends on its attacked batches.

    ================== ===============================================================================================
    ``cross-entropy``  its mean (Madry et al. 2018, equation 2.1)
    ``trades``         :func:`fastat.objectives.trades.trades_loss`, clean and attacked images in two passes
    ``mart``           :func:`fastat.objectives.mart.mart_loss`, likewise
    ``holistic``       the HR loss of the cross-entropies: :func:`fastat.objectives.holistic.holistic_cross_entropy`
    ``benign``         reweighted, and discriminating features: :func:`fastat.objectives.benign.benign_loss`, on the
                       input of the network's linear layer
    ================== ===============================================================================================

    With ``grad_align`` its multiple of :func:`fastat.objectives.gradalign.gradient_misalignment` is added.
    """
    chosen = partial(_OBJECTIVES[config.objective], config)
    return partial(_with_alignment, config, chosen) if config.grad_align > 0 else chosen


def describe(config: TrainConfig) -> str:
    """The training in the words of a title: "PGD-10 adversarial training", "HR (alpha 0.05, r 0.1) on N-FGSM"."""
    attack = f"PGD-{config.attack_steps}" if config.attack.startswith("pgd") else config.attack.upper()
    if config.attack == "none":
        attack = "clean images"
    if config.objective == "holistic":
        order = "" if config.order == "hd" else f", order {config.order}"
        text = f"HR (alpha {config.alpha:g}, r {config.r:g}{order}) on {attack}"
    elif config.objective == "benign":
        text = f"BAT (gamma {config.gamma:g}, beta {config.beta:g}) on {attack}"
    elif config.objective == "trades":
        text = f"TRADES (beta {config.trades_beta:g}) on {attack}"
    elif config.objective == "mart":
        text = f"MART (lambda {config.mart_lambda:g}) on {attack}"
    else:
        text = "standard training" if config.attack == "none" else f"{attack} adversarial training"
    text += f" with GradAlign ({config.grad_align:g})" if config.grad_align else ""
    text += f" with AWP ({config.awp:g})" if config.awp else ""
    return text + (f", {100 * config.label_noise:g}% of the training labels flipped" if config.label_noise else "")


def _trades_attack(
    config: TrainConfig, model: nn.Module, x: Tensor, y: Tensor, seed: int, sample_ids: Tensor
) -> Tensor:
    """PGD on the divergence from the clean prediction, which has no gradient at x itself: from a point close by."""
    start = random_start(x, min(_TRADES_NOISE, config.eps), "linf", seed, sample_ids)
    return pgd(
        model, x, y, config.eps, config.step_size, config.attack_steps, config.norm, loss="kl", start=start,
        sample_ids=sample_ids, validate=False,
    )  # fmt: skip


def _cross_entropy(config: TrainConfig, model: nn.Module, batch: AttackedBatch) -> tuple[Tensor, Tensor]:
    logits = model(batch.x_adv)
    return F.cross_entropy(logits.float(), batch.y), logits


def _trades(config: TrainConfig, model: nn.Module, batch: AttackedBatch) -> tuple[Tensor, Tensor]:
    clean, logits = model(batch.x), model(batch.x_adv)
    return trades_loss(clean.float(), logits.float(), batch.y, config.trades_beta), logits


def _mart(config: TrainConfig, model: nn.Module, batch: AttackedBatch) -> tuple[Tensor, Tensor]:
    clean, logits = model(batch.x), model(batch.x_adv)
    return mart_loss(clean.float(), logits.float(), batch.y, config.mart_lambda), logits


def _holistic(config: TrainConfig, model: nn.Module, batch: AttackedBatch) -> tuple[Tensor, Tensor]:
    logits = model(batch.x_adv)
    if logits.device.type == "cpu" and not bool(logits.isfinite().all()):
        return F.cross_entropy(
            logits.float(), batch.y
        ), logits  # not finite: the training loop stops and names the step
    return holistic_cross_entropy(logits.float(), batch.y, config.alpha, config.r, config.order), logits


def _benign(config: TrainConfig, model: nn.Module, batch: AttackedBatch) -> tuple[Tensor, Tensor]:
    logits, features = with_features(model)(batch.x_adv)
    constants = (config.gamma, config.beta, config.tau, config.positives)
    return benign_loss(logits.float(), features.float(), batch.y, *constants), logits


def _with_alignment(
    config: TrainConfig, objective: Objective, model: nn.Module, batch: AttackedBatch
) -> tuple[Tensor, Tensor]:
    loss, logits = objective(model, batch)
    misaligned = gradient_misalignment(model, batch.x, batch.y, config.eps, seed=batch.seed, sample_ids=batch.ids)
    return loss + config.grad_align * misaligned, logits


_OBJECTIVES: Mapping[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "cross-entropy": _cross_entropy,
    "trades": _trades,
    "mart": _mart,
    "holistic": _holistic,
    "benign": _benign,
}
