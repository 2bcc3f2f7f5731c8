"""What an evaluation found."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fastat.kernels.arguments import check_integer, check_number
from fastat.support.threat import Norm


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracies of one model on one set of images. Printed, it is a table.

    Attributes:
        norm: norm of the perturbations.
        eps: their radius, in the unit of the inputs.
        correct: bool [n] on the CPU, by name: "clean", then the attacks; which images are classified correctly.
        examples: adversarial examples [n, ...] on the CPU by attack, where they were asked for; of an image that was
            wrong without, the image.
    """

    norm: Norm
    eps: float
    correct: dict[str, Tensor]
    examples: dict[str, Tensor] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.correct["clean"])

    @property
    def accuracy(self) -> dict[str, float]:
        """Fraction of the n images classified correctly, by name."""
        return {name: int(right.sum()) / self.n for name, right in self.correct.items()}

    @property
    def robust(self) -> Tensor:
        """bool [n]: which images are classified correctly, and after every attack."""
        return torch.stack(list(self.correct.values())).all(0)

    @property
    def worst_case(self) -> float:
        """Fraction of the n images that withstand every attack."""
        return int(self.robust.sum()) / self.n

    def by_class(self, labels: Tensor, classes: int) -> dict[str, list[float | None]]:
        """The accuracies of the images of each class, given their labels, int64 [n]; None for a class without any."""
        members = [labels.cpu() == number for number in range(classes)]
        return {
            name: [float(right[own].float().mean()) if own.any() else None for own in members]
            for name, right in self.correct.items()
        }

    def interval(self, name: str) -> tuple[float, float]:
        """The 95% confidence interval of an accuracy, over the draw of the n images; of "worst case" too."""
        return wilson_interval(self.worst_case if name == "worst case" else self.accuracy[name], self.n)

    def __str__(self) -> str:
        rows = self.accuracy | ({"worst case": self.worst_case} if len(self.correct) > 2 else {})
        width = max(map(len, rows))
        lines = [f"{self.n} images, {self.norm}, eps {self.eps:.4g}"]
        for name, share in rows.items():
            low, high = self.interval(name)
            lines.append(f"  {name:<{width}}  {share:7.2%}  [{low:.2%}, {high:.2%}]")
        return "\n".join(lines)


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's (1927) 95% score interval of a proportion seen in n trials.

    The number of successes is rounded to the nearest whole one.

    Raises:
        TypeError, ValueError: n is no whole number >= 1, or accuracy none in [0, 1].
    """
    check_integer(n, "n", 1)
    accuracy = check_number(accuracy, "accuracy")
    if accuracy > 1:
        raise ValueError(f"accuracy must be in [0, 1], got {accuracy}")
    from scipy.stats import binomtest  # slow to import

    found = binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)
