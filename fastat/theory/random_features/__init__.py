"""Random features under robust training: more parameters can hurt.

Hassani and Javanmard, "The curse of overparametrization in adversarial training: precise analysis of robust
generalization for random features regression" (Annals of Statistics, 2024).
"""

from fastat.theory.random_features.asymptotics import Asymptotics, asymptotics, critical_eps
from fastat.theory.random_features.curves import Curve, Landmarks, curve
from fastat.theory.random_features.saddle import Saddle
from fastat.theory.random_features.simulation import Simulation, simulate

__all__ = [
    "Asymptotics",
    "Curve",
    "Landmarks",
    "Saddle",
    "Simulation",
    "asymptotics",
    "critical_eps",
    "curve",
    "simulate",
]
