"""What a protocol descends on attacked batches: a loss of each sample, and one number of them all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor

from fastat.kernels.arguments import widened
from fastat.models import Model, uncompiled, with_features
from fastat.objectives import (
    NotFiniteError,
    benign_loss,
    gradient_misalignment,
    holistic_cross_entropy,
    holistic_loss,
    mart_loss,
    trades_loss,
)
from fastat.protocols.config import ProtocolConfig
from fastat.support.distributed import Group
from fastat.support.threat import Bounds, ThreatModel


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


def objective_of(method: ProtocolConfig, threat: ThreatModel) -> Objective:
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
    chosen = partial(_objective, method)
    if method.grad_align == 0:
        return chosen
    return partial(_with_alignment, chosen, weight=method.grad_align, eps=threat.eps, bounds=threat.bounds)


def _objective(method: ProtocolConfig, model: Model, batch: AttackedBatch) -> tuple[Tensor, Tensor]:
    clean = None if method.loss == "cross-entropy" else widened(model(batch.x))
    if method.objective == "benign":
        output, features = with_features(model)(batch.x_adv)
        logits = widened(output)
        constants = (method.gamma, method.beta, method.tau, method.positives)
        losses = None if _fuses(method) else _sample_losses(method, clean, logits, batch.y)
        return benign_loss(logits, widened(features), batch.y, *constants, losses=losses, group=batch.group), logits
    logits = widened(model(batch.x_adv))
    if method.objective == "holistic":
        return _holistic(method, clean, logits, batch), logits
    return _sample_losses(method, clean, logits, batch.y).mean(), logits


def _fuses(method: ProtocolConfig) -> bool:
    """Whether the losses are those that HR and BAT make themselves, with their gradient in one pass."""
    return method.loss == "cross-entropy" and method.label_smoothing == 0


def _sample_losses(method: ProtocolConfig, clean: Tensor | None, logits: Tensor, y: Tensor) -> Tensor:
    """[B], of the configured loss."""
    smoothing = method.label_smoothing
    if clean is None:
        return F.cross_entropy(logits, y, reduction="none", label_smoothing=smoothing)
    if method.loss == "trades":
        return trades_loss(clean, logits, y, method.trades_beta, label_smoothing=smoothing, reduction="none")
    return mart_loss(clean, logits, y, method.mart_lambda, reduction="none")


def _holistic(method: ProtocolConfig, clean: Tensor | None, logits: Tensor, batch: AttackedBatch) -> Tensor:
    budgets = (method.alpha, method.r, method.order)
    try:
        if _fuses(method):
            return holistic_cross_entropy(logits, batch.y, *budgets, group=batch.group)
        return holistic_loss(_sample_losses(method, clean, logits, batch.y), *budgets, group=batch.group)
    except NotFiniteError:  # which CUDA does not raise: the training skips the step on both
        return (math.nan * logits).sum()


def _with_alignment(
    objective: Objective, model: Model, batch: AttackedBatch, *, weight: float, eps: float, bounds: Bounds
) -> tuple[Tensor, Tensor]:
    loss, logits = objective(model, batch)
    # compiled code has no second derivative
    lower, upper = bounds or (None, None)
    misaligned = gradient_misalignment(
        uncompiled(model), batch.x, batch.y, eps, seed=batch.seed, sample_ids=batch.ids, lower=lower, upper=upper
    )
    return loss + weight * misaligned, logits
