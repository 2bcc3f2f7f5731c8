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

__all__ = [
    "ATTACKS",
    "Evaluation",
    "adversarial_losses",
    "eval_mode",
    "evaluate",
    "predict",
    "robust_accuracy_curve",
    "wilson_interval",
]
