"""Training objectives, one per file: from what the network says of a batch to the number that training descends."""

from fastat.objectives.benign import Positives, benign_loss, benign_weights, discrimination_loss
from fastat.objectives.gradalign import gradient_misalignment
from fastat.objectives.holistic import (
    NotFiniteError,
    Order,
    certificate,
    holistic_cross_entropy,
    holistic_loss,
    holistic_weights,
)
from fastat.objectives.mart import mart_loss
from fastat.objectives.trades import trades_loss

__all__ = [
    "NotFiniteError",
    "Order",
    "Positives",
    "benign_loss",
    "benign_weights",
    "certificate",
    "discrimination_loss",
    "gradient_misalignment",
    "holistic_cross_entropy",
    "holistic_loss",
    "holistic_weights",
    "mart_loss",
    "trades_loss",
]
