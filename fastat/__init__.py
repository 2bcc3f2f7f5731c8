"""fastat: fast adversarial training for PyTorch."""

from fastat import ops, reference
from fastat._extension import build_info
from fastat.attacks import fgsm, pgd
from fastat.features import with_features
from fastat.models.normalized import Normalized
from fastat.objectives import (
    benign_loss,
    benign_weights,
    certificate,
    discrimination_loss,
    holistic_cross_entropy,
    holistic_loss,
    holistic_weights,
)
from fastat.ops import attack_loss, best_, l1_step_, l2_step_, linf_step_, project_, random_start
from fastat.speed import Fastest, fastest
from fastat.survey import CaptureError

__all__ = [
    "CaptureError",
    "Fastest",
    "Normalized",
    "attack_loss",
    "benign_loss",
    "benign_weights",
    "best_",
    "build_info",
    "certificate",
    "discrimination_loss",
    "fastest",
    "fgsm",
    "holistic_cross_entropy",
    "holistic_loss",
    "holistic_weights",
    "l1_step_",
    "l2_step_",
    "linf_step_",
    "ops",
    "pgd",
    "project_",
    "random_start",
    "reference",
    "with_features",
]
