"""The trainings of the experiment, and which of them a figure or a finding is about."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastat.theory.catastrophic.cell import Cell
from fastat.theory.catastrophic.settings import Settings
from fastat.theory.catastrophic.sweeping import Outcome


@dataclass(frozen=True)
class Example:
    """A test image to show: the dataset's title and classes, the image as nested lists [C, H, W], its label."""

    title: str
    classes: tuple[str, ...]
    image: list[list[list[float]]]
    label: int


@dataclass(frozen=True)
class Trainings:
    """Every training, looked at by epoch.

    Attributes:
        settings: what was asked for.
        outcomes: one per training, in the order of :func:`fastat.theory.catastrophic.settings.cells`.
        example: an image for the pictures.
        test_images: number of images behind each accuracy.
    """

    settings: Settings
    outcomes: list[Outcome]
    example: Example
    test_images: int

    @property
    def collapsing(self) -> list[Outcome]:
        """FGSM at (beta, eps), one per seed."""
        return self.fgsm(self.settings.beta, self.settings.eps)

    @property
    def without(self) -> list[Outcome]:
        """FGSM at (0, eps), one per seed."""
        return self.fgsm(0.0, self.settings.eps)

    def fgsm(self, beta: float, eps: float) -> list[Outcome]:
        """Plain FGSM at a point of the grid, the first seed first."""
        return self.chosen(lambda cell: _plain(cell) and cell.method == "fgsm" and (cell.beta, cell.eps) == (beta, eps))

    def chosen(self, wanted: Callable[[Cell], bool]) -> list[Outcome]:
        """The outcomes of some cells."""
        return [outcome for outcome in self.outcomes if wanted(outcome.cell)]

    def compared(self, *, filtered: bool = False) -> list[Outcome]:
        """What the first seed has at (beta, eps): the methods, FGSM first, or FGSM behind each low pass."""
        settings = self.settings
        place = (settings.beta, settings.eps, settings.seeds[0], "plain")
        return self.chosen(
            lambda cell: (cell.beta, cell.eps, cell.seed, cell.injection) == place and (cell.bandwidth > 0) == filtered
        )


def _plain(cell: Cell) -> bool:
    return cell.injection == "plain" and cell.bandwidth == 0
