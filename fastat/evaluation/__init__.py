"""Evaluation: clean and robust accuracy, curves over the radius, and losses under attack."""

from fastat.evaluation.accuracy import ATTACKS, evaluate
from fastat.evaluation.curves import adversarial_losses, robust_accuracy_curve
from fastat.evaluation.images import evaluate_images, some_of
from fastat.evaluation.result import Evaluation, wilson_interval
from fastat.evaluation.running import eval_mode, predict

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
