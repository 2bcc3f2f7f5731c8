"""The outcome of the study."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from fastat.theory.memorization.figures import plot_examples, plot_scores
from fastat.theory.memorization.findings import findings
from fastat.theory.memorization.gallery import images_of
from fastat.theory.memorization.study_figures import plot_curves, plot_protocols, plot_removal
from fastat.theory.memorization.summary import Bed
from fastat.theory.result import Finding, Picture, Result


@dataclass(frozen=True)
class MemorizationResult(Result):
    """What was measured on each dataset."""

    experiment: ClassVar[str] = "memorization"
    title: ClassVar[str] = "Memorization: typical and atypical samples in adversarial training"

    beds: list[Bed]

    def findings(self) -> list[Finding]:
        """The claims of Xu et al. 2021, by the rules of :mod:`fastat.theory.memorization.findings`."""
        return findings(self.beds)

    def plot(self, folder: Path) -> list[Picture]:
        """Five figures for each dataset."""
        return [picture for bed in self.beds for picture in self._plot(bed, folder)]

    def _plot(self, bed: Bed, folder: Path) -> list[Picture]:
        name = re.sub(r"[^\w.-]+", "-", bed.data)
        networks, seeds = self.settings.networks, self.settings.seeds
        about = f"{bed.title}, {networks} networks on random {self.settings.fraction:.0%} subsets"
        noise = f"Mean of {seeds} seeds with its 95% interval"
        plot_removal(folder / f"{name}-removal.png", bed)
        plot_curves(folder / f"{name}-fitting.png", bed)
        plot_protocols(folder / f"{name}-protocols.png", bed)
        plot_scores(folder / f"{name}-scores.png", bed.histogram, about)
        images, scores = images_of(bed.gallery)
        plot_examples(folder / f"{name}-images.png", images, scores, about)
        return [
            Picture(
                f"{name}-removal.png",
                f"{bed.title}: test accuracy of PGD-AT against the part of the atypical training samples that is "
                f"removed, the most memorized first, and against as many random samples. {noise}.",
            ),
            Picture(
                f"{name}-fitting.png",
                f"{bed.title}: fitting typical and atypical samples, by epoch of PGD-AT on all samples. {noise}.",
            ),
            Picture(f"{name}-protocols.png", f"{bed.title}: protocols side by side on test samples. {noise}."),
            Picture(f"{name}-scores.png", f"{bed.title}: memorization of the training samples ({networks} networks)."),
            Picture(f"{name}-images.png", f"{bed.title}: the most and the least memorized training images."),
        ]
