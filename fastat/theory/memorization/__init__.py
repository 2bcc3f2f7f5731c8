"""Memorization and influence of training samples, and what adversarial training makes of atypical ones.

Feldman and Zhang, "What neural networks memorize and why" (NeurIPS 2020); Xu et al., "Towards the memorization effect
of neural networks in adversarial training" (2021). ``python -m fastat.theory.memorization --out FOLDER`` shows both on
digits.
"""

from fastat.theory.memorization.ensemble import Recipe
from fastat.theory.memorization.estimation import estimate, seconds_spent
from fastat.theory.memorization.groups import group_measure, split_test
from fastat.theory.memorization.network import small_mlp
from fastat.theory.memorization.scores import Memorization, Outcomes, load, score

__all__ = [
    "Memorization",
    "Outcomes",
    "Recipe",
    "estimate",
    "group_measure",
    "load",
    "score",
    "seconds_spent",
    "small_mlp",
    "split_test",
]
