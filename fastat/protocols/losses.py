"""The loss of each sample that a protocol descends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fastat.kernels.arguments import check_data, check_dense, check_number
from fastat.objectives import mart_loss, trades_loss
from fastat.protocols.checks import below_1, plain_numbers

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""A loss of one's own: ``(output on the adversarial inputs, y) -> losses [B]``, with gradient."""


@dataclass(frozen=True)
class CrossEntropy:
    """The cross-entropy of the adversarial examples (Madry et al. 2018, equation 2.1).

    Attributes:
        label_smoothing: share of the target that is spread evenly over the classes, in [0, 1). Attacks ascend the loss
            of the true labels.
    """

    label_smoothing: float = 0.0
    title: ClassVar[str] = ""

    def __post_init__(self) -> None:
        below_1(self.label_smoothing, "label_smoothing")
        plain_numbers(self, "label_smoothing")

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """The losses ``[B, ...]`` of logits ``[B, C, ...]``; labels ``[B, ...]``, of which those of -100 do not count,
        or shares of the classes ``[B, C, ...]``."""
        check_data(logits, "logits")
        if not isinstance(y, Tensor) or logits.dim() < 2:
            found = f"{list(logits.shape)} and {type(y).__name__}"
            raise TypeError(f"the loss takes logits [B, C, ...] and labels in a tensor, got {found}")
        check_dense(y, "y")
        labels = y if y.is_floating_point() else y.long()
        if not y.is_floating_point():
            _check_classes(labels, logits.shape[1])
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)


def _check_classes(labels: Tensor, classes: int) -> None:
    """ValueError for labels that are none of the classes, as far as looking does not stall a device."""
    if labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    wrong = labels[((labels < 0) | (labels >= classes)) & (labels != -100)]
    if len(wrong) > 0:
        raise ValueError(f"y must hold classes in [0, {classes}), got {wrong[0].item()}")


@dataclass(frozen=True)
class Trades:
    """:func:`fastat.trades_loss` of clean and adversarial examples, in two passes.

    Attributes:
        beta: weight of the divergence between both predictions.
        label_smoothing: of the cross-entropy, which is that of the clean examples.
    """

    beta: float = 6.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.beta, "beta")
        below_1(self.label_smoothing, "label_smoothing")
        plain_numbers(self, "beta", "label_smoothing")

    def __call__(self, logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
        """The losses ``[B]`` of logits ``[B, C]`` of the adversarial and the clean examples."""
        return trades_loss(clean, logits, y, self.beta, label_smoothing=self.label_smoothing, reduction="none")

    @property
    def title(self) -> str:
        """In words."""
        return f"TRADES (beta {self.beta:g})"


@dataclass(frozen=True)
class Mart:
    """:func:`fastat.mart_loss` of clean and adversarial examples, in two passes.

    Attributes:
        lam: weight of the divergence on examples that are not predicted surely.
    """

    lam: float = 5.0

    def __post_init__(self) -> None:
        check_number(self.lam, "lam")
        plain_numbers(self, "lam")

    def __call__(self, logits: Tensor, y: Tensor, clean: Tensor) -> Tensor:
        """The losses ``[B]`` of logits ``[B, C]`` of the adversarial and the clean examples."""
        return mart_loss(clean, logits, y, self.lam, reduction="none")

    @property
    def title(self) -> str:
        """In words."""
        return f"MART (lambda {self.lam:g})"


Loss = CrossEntropy | Trades | Mart
LOSSES: dict[str, type[Loss]] = {"cross-entropy": CrossEntropy, "trades": Trades, "mart": Mart}
