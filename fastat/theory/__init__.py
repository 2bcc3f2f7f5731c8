"""What five papers prove or observe as experiments, a package each; :class:`Experiment` says what each offers."""

from importlib import import_module
from types import ModuleType
from typing import cast

from fastat.theory.contract import DEFAULT_RESOURCES, Experiment, Resources
from fastat.theory.result import FIGURES, Finding, Picture, Result

__all__ = [
    "DEFAULT_RESOURCES",
    "EXPERIMENTS",
    "FIGURES",
    "Experiment",
    "Finding",
    "Picture",
    "Resources",
    "Result",
    "experiment",
    "page",
]

EXPERIMENTS = {
    "random-features": "more parameters can hurt robust training, exactly (Hassani and Javanmard 2024)",
    "cgro": "clean generalization beside robust overfitting (Li and Li 2025)",
    "catastrophic": "catastrophic overfitting caused by the data (Ortiz-Jimenez et al. 2023)",
    "memorization": "atypical samples, and benign adversarial training (Xu et al. 2021)",
    "generalization": "the guarantee of holistic robust training (Bennouna, Lucas, Van Parys 2023)",
}
"""The experiments by name, and what they show."""


def experiment(name: str) -> Experiment:
    """The experiment of a name in EXPERIMENTS, which is imported."""
    return cast(Experiment, import_module(f"fastat.theory.{name.replace('-', '_')}.experiment"))


def __getattr__(name: str) -> ModuleType:
    if name.replace("_", "-") in EXPERIMENTS:
        return import_module(f"fastat.theory.{name}")
    raise AttributeError(f"module 'fastat.theory' has no attribute {name!r}")
