"""Training protocols as data: an attack, an objective, and the names that the literature has for some pairs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from fastat.attacks import fgsm, pgd
from fastat.features import with_features
from fastat.objectives import benign_loss, holistic_cross_entropy

if TYPE_CHECKING:
    from fastat.config import TrainConfig

ProtocolName = Literal["pgd-at", "fgsm-at", "rs-fgsm", "n-fgsm", "hr", "bat"]
AttackName = Literal["pgd", "fgsm", "rs-fgsm", "n-fgsm"]
ObjectiveName = Literal["cross-entropy", "holistic", "benign"]

PROTOCOLS: Mapping[str, Mapping[str, str]] = {
    "pgd-at": {},  # Madry et al. 2018
    "fgsm-at": {"attack": "fgsm"},  # Goodfellow, Shlens, Szegedy 2015
    "rs-fgsm": {"attack": "rs-fgsm"},  # Wong, Rice, Kolter 2020
    "n-fgsm": {"attack": "n-fgsm"},  # de Jorge et al. 2022
    "hr": {"objective": "holistic"},  # Bennouna, Lucas, Van Parys 2023
    "bat": {"objective": "benign"},  # Xu et al., benign adversarial training
}
"""What each name sets apart from PGD training on the cross-entropy. The rest is free: any attack goes with any
objective, so HR on N-FGSM is ``protocol="hr", attack="n-fgsm"``."""

TrainingAttack = Callable[..., Tensor]
"""``(model, x, y, seed=, sample_ids=) -> x_adv``"""

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(model, x_adv, y) -> (loss, 0-d float32 with gradient; logits [B, C])``, in one forward pass."""

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
    noise, step, clip = _SINGLE_STEP[config.attack]
    step_size = step * config.eps if config.step_size is None else config.step_size
    return partial(fgsm, eps=config.eps, step_size=step_size, norm=config.norm, noise=noise, clip=clip, validate=False)


def objective_of(config: TrainConfig) -> Objective:
    """The loss that a run descends on its attacked batches.

    ================== ===============================================================================================
    ``cross-entropy``  its mean (Madry et al. 2018, equation 2.1)
    ``holistic``       the HR loss of the cross-entropies: :func:`fastat.objectives.holistic.holistic_cross_entropy`
    ``benign``         reweighted, and discriminating features: :func:`fastat.objectives.benign.benign_loss`, on the
                       input of the network's linear layer
    ================== ===============================================================================================
    """
    return partial(_OBJECTIVES[config.objective], config)


def describe(config: TrainConfig) -> str:
    """The training in the words of a title: "PGD-10 adversarial training", "HR (alpha 0.05, r 0.1) on N-FGSM"."""
    attack = f"PGD-{config.attack_steps}" if config.attack == "pgd" else config.attack.upper()
    if config.objective == "holistic":
        order = "" if config.order == "hd" else f", order {config.order}"
        text = f"HR (alpha {config.alpha:g}, r {config.r:g}{order}) on {attack}"
    elif config.objective == "benign":
        text = f"BAT (gamma {config.gamma:g}, beta {config.beta:g}) on {attack}"
    else:
        text = f"{attack} adversarial training"
    return text + (f", {100 * config.label_noise:g}% of the training labels flipped" if config.label_noise else "")


def _cross_entropy(config: TrainConfig, model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(x_adv)
    return F.cross_entropy(logits.float(), y), logits


def _holistic(config: TrainConfig, model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = model(x_adv)
    if logits.device.type == "cpu" and not bool(logits.isfinite().all()):
        return F.cross_entropy(logits.float(), y), logits  # not finite: the training loop stops and names the step
    return holistic_cross_entropy(logits.float(), y, config.alpha, config.r, config.order), logits


def _benign(config: TrainConfig, model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits, features = with_features(model)(x_adv)
    loss = benign_loss(logits.float(), features.float(), y, config.gamma, config.beta, config.tau, config.positives)
    return loss, logits


_OBJECTIVES: Mapping[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "cross-entropy": _cross_entropy,
    "holistic": _holistic,
    "benign": _benign,
}
