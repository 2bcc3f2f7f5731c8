"""HR's guarantee as an experiment (Bennouna, Lucas, Van Parys, "Certified Robust Neural Networks", ICML 2023).

With n training points of which at most alpha n are corrupted, the HR loss in the sample exceeds the adversarial loss
out of it with probability 1 - exp(-r n + O(1)). Linear models, in which everything is exact, show the probability;
networks show what of it is left for them. ``fastat theory generalization`` runs it.
"""

from fastat.theory.generalization.disappointment import LinearCell, LinearOutcome, linear_outcome
from fastat.theory.generalization.experiment import PRESETS, Settings, cost, run
from fastat.theory.generalization.fitting import Fitted, fit
from fastat.theory.generalization.linear import Problem
from fastat.theory.generalization.networks import NetworkCell, NetworkOutcome, network_outcome
from fastat.theory.generalization.outcome import GeneralizationResult
from fastat.theory.generalization.statistics import Rate, exponential_rate
from fastat.theory.generalization.worst_case import worst_case_weights

__all__ = [
    "PRESETS",
    "Fitted",
    "GeneralizationResult",
    "LinearCell",
    "LinearOutcome",
    "NetworkCell",
    "NetworkOutcome",
    "Problem",
    "Rate",
    "Settings",
    "cost",
    "exponential_rate",
    "fit",
    "linear_outcome",
    "network_outcome",
    "run",
    "worst_case_weights",
]
