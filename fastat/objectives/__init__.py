"""Training objectives, one per file: from what the network says of a batch to the number that training descends."""

from fastat.objectives.benign import benign_loss, benign_weights, discrimination_loss
from fastat.objectives.holistic import certificate, holistic_cross_entropy, holistic_loss, holistic_weights

__all__ = [
    "benign_loss",
    "benign_weights",
    "certificate",
    "discrimination_loss",
    "holistic_cross_entropy",
    "holistic_loss",
    "holistic_weights",
]
