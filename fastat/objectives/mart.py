"""MART (Wang et al., "Improving adversarial robustness requires revisiting misclassified examples", ICLR 2020)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from fastat.kernels.arguments import check_number, logits_pair
from fastat.objectives.reduction import Reduction, reduced


def mart_loss(
    logits: Tensor, logits_adv: Tensor, y: Tensor, lam: float = 5.0, *, reduction: Reduction = "mean"
) -> Tensor:
    """``mean [BCE(p_adv, y) + lam KL(p || p_adv) (1 - p_y)]``, equation 11.

    p and p_adv are the softmax of the clean and of the adversarial logits, and BCE the boosted cross-entropy
    ``-log p_adv,y - log(1 - max_{k != y} p_adv,k)``, computed from the logits without forming 1 - p. The adversarial
    example ascends the cross-entropy. The gradient flows through the clean logits too, as in the authors' code.

    Args:
        logits: ``[B, C]``, any float dtype (half ones are worked on in float32); of the clean images.
        logits_adv: like ``logits``; of the adversarial ones.
        y: integer labels ``[B]`` in [0, C).
        lam: >= 0.
        reduction: "mean", or "none" for the loss of each sample.

    Returns:
        0-d, or ``[B]`` without reduction; float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: on wrong dtypes, shapes, devices, labels or numbers.
    """
    clean, adversarial, labels = logits_pair(logits, logits_adv, y)
    lam = check_number(lam, "lam")
    index = labels[:, None]
    log_p, log_q = clean.log_softmax(1), adversarial.log_softmax(1)
    strongest = adversarial.scatter(1, index, -math.inf).argmax(1, keepdim=True)
    log_rest = adversarial.scatter(1, strongest, -math.inf).logsumexp(1) - adversarial.logsumexp(1)
    boosted = F.nll_loss(log_q, labels, reduction="none") - log_rest
    divergence = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    wrong = -log_p.gather(1, index)[:, 0].expm1()  # 1 - p_y
    return reduced(boosted + lam * divergence * wrong, reduction)
