"""Training protocols: an attack, a loss of each sample, an objective over the batch, and the names of known ones."""

from fastat.protocols.attack import Attack
from fastat.protocols.awp import perturbed_weights
from fastat.protocols.config import ProtocolConfig
from fastat.protocols.losses import CrossEntropy, Mart, Trades
from fastat.protocols.named import protocol, protocol_of
from fastat.protocols.objective import Benign, Holistic, Mean
from fastat.protocols.table import (
    PROTOCOL_FIELDS,
    PROTOCOLS,
    AttackName,
    LossName,
    ObjectiveName,
    ProtocolName,
    check_protocol_name,
)
from fastat.protocols.value import Outcome, Protocol

__all__ = [
    "PROTOCOLS",
    "PROTOCOL_FIELDS",
    "Attack",
    "AttackName",
    "Benign",
    "CrossEntropy",
    "Holistic",
    "LossName",
    "Mart",
    "Mean",
    "ObjectiveName",
    "Outcome",
    "Protocol",
    "ProtocolConfig",
    "ProtocolName",
    "Trades",
    "check_protocol_name",
    "perturbed_weights",
    "protocol",
    "protocol_of",
]
