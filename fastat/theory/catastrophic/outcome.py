"""The result of the experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastat.theory.catastrophic import figures, findings
from fastat.theory.catastrophic.trainings import Trainings
from fastat.theory.result import Finding, Picture, Result


@dataclass(frozen=True)
class CatastrophicResult(Trainings, Result):
    """The trainings, with what they say of the claims, and pictures of them."""

    experiment: ClassVar[str] = "catastrophic"
    title: ClassVar[str] = "Catastrophic overfitting that the data bring about"

    def findings(self) -> list[Finding]:
        """What was and was not reproduced, with numbers."""
        return findings.all_findings(self)

    def plot(self, folder: Path) -> list[Picture]:
        """Draws the figures."""
        return figures.plot_all(self, folder)
