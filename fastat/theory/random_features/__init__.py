"""Random features under robust training: more parameters can hurt.

Hassani and Javanmard, "The curse of overparametrization in adversarial training: precise analysis of robust
generalization for random features regression" (Annals of Statistics, 2024). ``fastat theory
random-features`` runs the experiment.
"""

from fastat.theory.random_features.asymptotics import Asymptotics, asymptotics, critical_eps
from fastat.theory.random_features.curves import Curve, Landmarks, curve
from fastat.theory.random_features.experiment import PRESETS, RandomFeaturesResult, Settings, cost, run
from fastat.theory.random_features.saddle import Saddle
from fastat.theory.random_features.simulation import Simulation, simulate

__all__ = [
    "PRESETS",
    "Asymptotics",
    "Curve",
    "Landmarks",
    "RandomFeaturesResult",
    "Saddle",
    "Settings",
    "Simulation",
    "asymptotics",
    "cost",
    "critical_eps",
    "curve",
    "run",
    "simulate",
]
