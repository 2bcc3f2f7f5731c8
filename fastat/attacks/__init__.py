"""Attacks, one per file, and what they share: a user's inputs as a loop wants them, and gradients to the input."""

from fastat.attacks.fgsm import fgsm
from fastat.attacks.gradient import attacking
from fastat.attacks.inputs import Normalization, check_batch
from fastat.attacks.objective import LossFunction
from fastat.attacks.pgd import pgd
from fastat.attacks.speed import Fastest, fastest
from fastat.attacks.weakness import WeakAttackWarning, like_probabilities, tell_all, warn

__all__ = [
    "Fastest",
    "LossFunction",
    "Normalization",
    "WeakAttackWarning",
    "attacking",
    "check_batch",
    "fastest",
    "fgsm",
    "like_probabilities",
    "pgd",
    "tell_all",
    "warn",
]
