"""What a protocol descends of the losses of a batch: one number of them all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, get_args

from torch import Tensor

from fastat.kernels.arguments import check_number, widened
from fastat.objectives import (
    NotFiniteError,
    Order,
    Positives,
    benign_loss,
    holistic_cross_entropy,
    holistic_loss,
)
from fastat.protocols.checks import below_1, one_of, plain_numbers
from fastat.protocols.losses import CrossEntropy
from fastat.support.distributed import Group

ObjectiveFunction = Callable[[Tensor], Tensor]
"""An objective of one's own: ``losses [B] -> 0-d``, with gradient."""


class BatchOutput(NamedTuple):
    """What the network says of a batch: logits ``[B, C]`` and, where they are asked for, features ``[B, D]`` of the
    adversarial examples, labels ``[B]``; the losses ``[B]``, None for plain cross-entropies, which HR and BAT make with
    their gradient in one pass; and the processes that the batch is spread over."""

    logits: Tensor
    features: Tensor | None
    y: Tensor
    losses: Tensor | None
    group: Group | None


@dataclass(frozen=True)
class Mean:
    """The mean of the losses."""

    def __call__(self, batch: BatchOutput) -> Tensor:
        """0-d, with gradient."""
        return (CrossEntropy()(batch.logits, batch.y) if batch.losses is None else batch.losses).mean()


@dataclass(frozen=True)
class Holistic:
    """HR: :func:`fastat.holistic_loss` of the losses.

    Attributes:
        alpha: the fraction of the training data that may be wrong, in [0, 1).
        r: how far, in Kullback-Leibler divergence, the data may be from the distribution they were drawn from.
        order: "hd" guards against wrong data first, then against the divergence; "hr" the other way round.
    """

    alpha: float = 0.05
    r: float = 0.1
    order: Order = "hd"

    def __post_init__(self) -> None:
        below_1(self.alpha, "alpha")
        check_number(self.r, "r")
        plain_numbers(self, "alpha", "r")
        one_of(self.order, "order", get_args(Order))

    def __call__(self, batch: BatchOutput) -> Tensor:
        """0-d, with gradient; NaN where a loss is not finite."""
        budgets = (self.alpha, self.r, self.order)
        try:
            if batch.losses is None:
                return holistic_cross_entropy(batch.logits, batch.y, *budgets, group=batch.group)
            return holistic_loss(batch.losses, *budgets, group=batch.group)
        except NotFiniteError:  # which CUDA does not raise: a training skips the step on both
            return (math.nan * batch.logits).sum()

    @property
    def title(self) -> str:
        """In words."""
        order = "" if self.order == "hd" else f", order {self.order}"
        return f"HR (alpha {self.alpha:g}, r {self.r:g}{order})"


@dataclass(frozen=True)
class Benign:
    """BAT: :func:`fastat.benign_loss` of the losses, with the network's features.

    Attributes:
        gamma: how much less a misclassified sample weighs: exp(-gamma * the probability of the wrong class).
        beta: factor of the loss that draws the features of a class together.
        tau: temperature of that loss.
        positives: whether that loss averages a sample's positives "outside" or "inside" of the logarithm.
        features: name of the module whose output are the features; None for what the linear layer takes that makes the
            logits (:func:`fastat.with_features`).
    """

    gamma: float = 1.0
    beta: float = 0.2
    tau: float = 0.1
    positives: Positives = "outside"
    features: str | None = None

    def __post_init__(self) -> None:
        check_number(self.gamma, "gamma")
        check_number(self.beta, "beta")
        check_number(self.tau, "tau", above=True)
        plain_numbers(self, "gamma", "beta", "tau")
        one_of(self.positives, "positives", get_args(Positives))
        if self.features is not None and not isinstance(self.features, str):
            raise TypeError(f"features must be the name of a module, got {self.features!r}")

    def __call__(self, batch: BatchOutput) -> Tensor:
        """0-d, with gradient."""
        assert batch.features is not None
        constants = (self.gamma, self.beta, self.tau, self.positives)
        features = widened(batch.features)
        return benign_loss(batch.logits, features, batch.y, *constants, losses=batch.losses, group=batch.group)

    @property
    def title(self) -> str:
        """In words."""
        return f"BAT (gamma {self.gamma:g}, beta {self.beta:g})"


Objective = Mean | Holistic | Benign
OBJECTIVES: dict[str, type[Objective]] = {"mean": Mean, "holistic": Holistic, "benign": Benign}
