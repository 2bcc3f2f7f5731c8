"""Memorization and influence of training samples, and what adversarial training makes of atypical ones.

Feldman and Zhang, "What neural networks memorize and why" (NeurIPS 2020); Xu et al., "Towards the memorization effect
of neural networks in adversarial training" (2021). ``fastat theory memorization`` shows both on digits.
"""

from fastat.theory.memorization.comparison import Difference, paired_difference
from fastat.theory.memorization.ensemble import Recipe
from fastat.theory.memorization.estimation import estimate, seconds_spent
from fastat.theory.memorization.experiment import PRESETS, Settings, cost, run
from fastat.theory.memorization.groups import group_measure, split_test
from fastat.theory.memorization.network import group_norm_cnn, small_mlp
from fastat.theory.memorization.removal import Atypical, atypical_samples, kept_positions
from fastat.theory.memorization.result import MemorizationResult
from fastat.theory.memorization.scores import Memorization, Outcomes, load, score
from fastat.theory.memorization.split import load_split

__all__ = [
    "PRESETS",
    "Atypical",
    "Difference",
    "Memorization",
    "MemorizationResult",
    "Outcomes",
    "Recipe",
    "Settings",
    "atypical_samples",
    "cost",
    "estimate",
    "group_measure",
    "group_norm_cnn",
    "kept_positions",
    "load",
    "load_split",
    "paired_difference",
    "run",
    "score",
    "seconds_spent",
    "small_mlp",
    "split_test",
]
