"""What a protocol makes a step of training do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastat.protocols.attack import TrainingAttack, attack_of
from fastat.protocols.config import ProtocolConfig
from fastat.protocols.objective import Objective, objective_of
from fastat.support.threat import ThreatModel


@dataclass(frozen=True)
class Procedure:
    """What a protocol makes a step of training do.

    Attributes:
        threat: the perturbations that are trained against.
        attack: makes the images that the network learns from; None for attack "free", whose perturbation the step
            itself moves.
        attack_mode: mode of the network under attack.
        step_size: of the perturbation of attack "free".
        objective: what is descended on the attacked images.
        awp: relative size of the adversarial weight perturbation; 0 for none.
    """

    threat: ThreatModel
    attack: TrainingAttack | None
    attack_mode: Literal["eval", "train"]
    step_size: float
    objective: Objective
    awp: float


def procedure_of(method: ProtocolConfig, threat: ThreatModel) -> Procedure:
    """The procedure of a protocol."""
    return Procedure(
        threat=threat,
        attack=None if method.attack == "free" else attack_of(method, threat),
        attack_mode=method.attack_mode,
        step_size=threat.eps if method.step_size is None else method.step_size,
        objective=objective_of(method, threat),
        awp=method.awp,
    )
