"""The three stages of a training run, and whether a network generalizes clean and overfits robustly."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

FITTED = 1.0
"""A margin at which a sample counts as fitted: its pull on the weights has fallen from 1/2 to 0.27."""

CLEAN_AT_LEAST, ROBUST_AT_MOST = 0.95, 0.6
"""Test accuracies from which on a network generalizes clean, and up to which it is not robust (a coin has 0.5)."""


@dataclass(frozen=True)
class Stages:
    """First steps of the second and the third stage; None for a stage that the run did not reach.

    Attributes:
        memorizing: the first step at which the noise of some sample alone fits it, V_i >= 1. Before it, in the first
            stage, no sample is memorized and U has the time to grow.
        fitted: the first step at which every margin is 1 or more. Between the two, one sample after the other is
            memorized; from here on robust training accuracy is 1 by more than a little (margins turn positive much
            earlier, when they are still near zero and so is all that has been learned).
    """

    memorizing: int | None
    fitted: int | None


def detect_stages(memory: Tensor, train_margin: Tensor) -> Stages:
    """The stages of a run.

    Args:
        memory: V, [T + 1, N].
        train_margin: [T + 1, N].
    """
    return Stages(_first((memory >= FITTED).any(1)), _first((train_margin >= FITTED).all(1)))


def shows_cgro(robust_train: float, clean_test: float, robust_test: float) -> bool:
    """Clean generalization and robust overfitting: robust training accuracy 1, clean test accuracy at least 0.95,
    robust test accuracy at most 0.6."""
    return robust_train == 1 and clean_test >= CLEAN_AT_LEAST and robust_test <= ROBUST_AT_MOST


def _first(holds: Tensor) -> int | None:
    return int(holds.int().argmax()) if bool(holds.any()) else None
