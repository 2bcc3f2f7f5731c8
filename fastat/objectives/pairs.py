"""Arguments of the losses that compare the clean and the adversarial prediction of a sample."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fastat.arguments import check_like, check_logits, class_labels, compute_dtype

Reduction = Literal["mean", "none"]


def checked_pair(logits: Tensor, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and adversarial logits in the precision of the computation, and labels.

    Raises:
        TypeError, ValueError: on wrong dtypes, shapes, devices or labels.
    """
    check_logits(logits)
    check_like(logits_adv, logits, "logits_adv")
    compute = compute_dtype(logits)
    return logits.to(compute), logits_adv.to(compute), class_labels(y, logits, "y")


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Their mean, or the losses themselves.

    Raises:
        ValueError: reduction is neither "mean" nor "none".
    """
    if reduction not in ("mean", "none"):
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}")
    return losses.mean() if reduction == "mean" else losses
