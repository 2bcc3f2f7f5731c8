"""Training protocols: an attack, a loss of each sample, an objective over the batch, and the names of known pairs."""

from fastat.protocols.awp import perturbed_weights
from fastat.protocols.objective import (
    PROTOCOL_FIELDS,
    PROTOCOLS,
    AttackedBatch,
    AttackName,
    LossName,
    ObjectiveName,
    ProtocolName,
    attack_of,
    describe,
    objective_of,
)

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_FIELDS",
    "AttackName",
    "AttackedBatch",
    "LossName",
    "ObjectiveName",
    "ProtocolName",
    "attack_of",
    "describe",
    "objective_of",
    "perturbed_weights",
]
