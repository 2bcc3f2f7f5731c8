"""What five papers prove or observe as experiments, a package each; :class:`Experiment` says what each offers."""

from fastat.theory.experiment import DEFAULT_RESOURCES, Experiment, Resources
from fastat.theory.result import FIGURES, Finding, Picture, Result

__all__ = ["DEFAULT_RESOURCES", "FIGURES", "Experiment", "Finding", "Picture", "Resources", "Result", "page"]
