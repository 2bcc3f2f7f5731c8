"""Evaluation: clean and robust accuracy, curves over the radius, and losses under attack."""

from fastat.evaluation.accuracy import (
    ATTACKS,
    Evaluation,
    adversarial_losses,
    eval_mode,
    evaluate,
    predict,
    robust_accuracy_curve,
    wilson_interval,
)
from fastat.evaluation.images import evaluate_images, some_of

__all__ = [
    "ATTACKS",
    "Evaluation",
    "adversarial_losses",
    "eval_mode",
    "evaluate",
    "evaluate_images",
    "predict",
    "robust_accuracy_curve",
    "some_of",
    "wilson_interval",
]
