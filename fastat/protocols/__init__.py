"""Training protocols: an attack, a loss of each sample, an objective over the batch, and the names of known pairs."""

from fastat.protocols.attack import TrainingAttack, attack_of
from fastat.protocols.awp import perturbed_weights
from fastat.protocols.config import ProtocolConfig, describe
from fastat.protocols.objective import AttackedBatch, Objective, objective_of
from fastat.protocols.procedure import Procedure, procedure_of
from fastat.protocols.table import PROTOCOL_FIELDS, PROTOCOLS, AttackName, LossName, ObjectiveName, ProtocolName

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_FIELDS",
    "AttackName",
    "AttackedBatch",
    "LossName",
    "Objective",
    "ObjectiveName",
    "Procedure",
    "ProtocolConfig",
    "ProtocolName",
    "TrainingAttack",
    "attack_of",
    "describe",
    "objective_of",
    "perturbed_weights",
    "procedure_of",
]
