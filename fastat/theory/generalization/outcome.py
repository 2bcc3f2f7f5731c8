"""The result of the experiment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastat.theory.generalization import figures
from fastat.theory.generalization.disappointment import LinearOutcome
from fastat.theory.generalization.linear_findings import linear_findings
from fastat.theory.generalization.network_findings import network_findings
from fastat.theory.generalization.networks import NetworkOutcome
from fastat.theory.generalization.settings import Settings
from fastat.theory.result import Finding, Picture, Result


@dataclass(frozen=True)
class GeneralizationResult(Result):
    """Everything measured, in the order of the cells of :mod:`fastat.theory.generalization.settings`.

    Attributes:
        settings: of the run.
        rates: linear models against r and n; plain adversarial training first.
        corruptions: linear models against alpha, on corrupted samples.
        optimism: plain adversarial training of linear models against eps.
        networks: trainings of networks.
    """

    experiment: ClassVar[str] = "generalization"
    title: ClassVar[str] = "What holistic robustness guarantees (Bennouna, Lucas, Van Parys 2023)"

    settings: Settings
    rates: list[LinearOutcome]
    corruptions: list[LinearOutcome]
    optimism: list[LinearOutcome]
    networks: list[NetworkOutcome]

    def findings(self) -> list[Finding]:
        """The claims about the guarantee first, then those about networks."""
        return linear_findings(self.rates, self.corruptions, self.optimism) + network_findings(self.networks)

    def plot(self, folder: Path) -> list[Picture]:
        """Draws the figures."""
        return figures.draw(folder, self.settings, self.rates, self.corruptions, self.optimism, self.networks)
