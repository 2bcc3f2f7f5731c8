"""Clean generalization and robust overfitting: a network that memorizes every ball, and how training comes to the like.

Li and Li, "On the clean generalization and robust overfitting in adversarial training from two theoretical views:
representation complexity and training dynamics" (ICML 2025). ``fastat theory cgro`` runs the experiment.
"""

from fastat.theory.cgro.dynamics import Dynamics, train_dynamics
from fastat.theory.cgro.experiment import PRESETS, Settings, cost, run
from fastat.theory.cgro.memorizer import RobustMemorizer
from fastat.theory.cgro.outcome import CgroResult
from fastat.theory.cgro.patches import PatchData, patch_data
from fastat.theory.cgro.runs import DynamicsCell, dynamics_outcome, phase_diagram
from fastat.theory.cgro.stages import Stages, detect_stages, shows_cgro

__all__ = [
    "PRESETS",
    "CgroResult",
    "Dynamics",
    "DynamicsCell",
    "PatchData",
    "RobustMemorizer",
    "Settings",
    "Stages",
    "cost",
    "detect_stages",
    "dynamics_outcome",
    "patch_data",
    "phase_diagram",
    "run",
    "shows_cgro",
    "train_dynamics",
]
