"""What five papers prove or observe as experiments, a package each; :class:`Experiment` says what each offers."""

from fastat.theory.experiment import Experiment, Resources
from fastat.theory.result import Finding, Picture, Result

__all__ = ["Experiment", "Finding", "Picture", "Resources", "Result"]
