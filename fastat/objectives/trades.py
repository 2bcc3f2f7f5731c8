"""TRADES (Zhang et al., "Theoretically principled trade-off between robustness and accuracy", ICML 2019)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from fastat.kernels.arguments import check_number, logits_pair
from fastat.objectives.reduction import Reduction, reduced


def trades_loss(
    logits: Tensor,
    logits_adv: Tensor,
    y: Tensor,
    beta: float = 6.0,
    *,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """``mean [CE(logits, y) + beta KL(softmax(logits) || softmax(logits_adv))]``, equation 5 with beta = 1/lambda.

    The adversarial example ascends that divergence (``fastat.pgd(..., loss="kl")``), with the clean prediction as a
    constant. In the loss itself the gradient flows through both arguments, as in the authors' code.

    Args:
        logits: ``[B, C]``, any float dtype (half ones are worked on in float32); of the clean images.
        logits_adv: like ``logits``; of the adversarial ones.
        y: integer labels ``[B]`` in [0, C).
        beta: >= 0.
        label_smoothing: share in [0, 1] of the first term's target that is spread evenly over the classes.
        reduction: "mean", or "none" for the loss of each sample.

    Returns:
        0-d, or ``[B]`` without reduction; float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: on wrong dtypes, shapes, devices, labels or numbers.
    """
    clean, adversarial, labels = logits_pair(logits, logits_adv, y)
    beta, label_smoothing = check_number(beta, "beta"), check_number(label_smoothing, "label_smoothing")
    if label_smoothing > 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    log_p, log_q = clean.log_softmax(1), adversarial.log_softmax(1)
    fit = F.cross_entropy(clean, labels, label_smoothing=label_smoothing, reduction="none")
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    return reduced(fit + beta * divergence, reduction)
