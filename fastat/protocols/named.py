"""Protocols by the names that the literature has for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, get_args

from fastat.protocols.attack import OPTIONS, Attack, AttackFunction
from fastat.protocols.checks import one_of
from fastat.protocols.config import ProtocolConfig
from fastat.protocols.losses import LOSSES, CrossEntropy, Loss, LossFunction, Mart, Trades
from fastat.protocols.objective import OBJECTIVES, Benign, Holistic, Mean, Objective, ObjectiveFunction
from fastat.protocols.table import (
    PROTOCOL_FIELDS,
    PROTOCOLS,
    AttackName,
    LossName,
    ObjectiveName,
    ProtocolName,
    check_protocol_name,
)
from fastat.protocols.value import Protocol
from fastat.support import did_you_mean
from fastat.support.threat import Bounds, Norm, ThreatModel


def protocol(
    name: ProtocolName = "pgd-at",
    *,
    eps: float | None = None,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    attack: AttackName | AttackFunction | None = None,
    loss: LossName | Loss | LossFunction | None = None,
    objective: ObjectiveName | Objective | ObjectiveFunction | None = None,
    **options: Any,
) -> Protocol:
    """The protocol of that name: ``fastat.protocol("trades", eps=8 / 255, beta=6)``.

    ============ =====================================================================================================
    "standard"   clean images
    "pgd-at"     PGD (Madry et al. 2018)
    "fgsm-at"    FGSM (Goodfellow, Shlens, Szegedy 2015)
    "rs-fgsm"    FGSM from a random start (Wong, Rice, Kolter 2020)
    "n-fgsm"     FGSM on more noise, without projection (de Jorge et al. 2022)
    "gradalign"  FGSM and GradAlign (Andriushchenko and Flammarion 2020)
    "free"       a perturbation moved by the training itself (Shafahi et al. 2019)
    "trades"     Zhang et al. 2019
    "mart"       Wang et al. 2020
    "hr"         holistically robust training (Bennouna, Lucas, Van Parys 2023) on PGD
    "bat"        benign adversarial training (Xu et al.) on PGD
    ============ =====================================================================================================

    Args:
        eps: radius of the attack, in the units of the bounds; left out where the attack is a function of one's own.
        norm, bounds: see :class:`fastat.protocols.Attack`.
        attack, loss, objective: in place of those of the name; any goes with any.
        options: the other fields of the parts, by their names: steps, step_size, mode and replays of the
            :class:`~fastat.protocols.Attack`; label_smoothing, beta and lam of the losses; alpha, r, order, gamma,
            beta, tau, positives and features of the objectives; grad_align and awp.

    Raises:
        TypeError: an option that no part of this protocol uses, or that two of them have; no eps, or one that would not
            be used.
        ValueError: an unknown name, or a value out of its range.
    """
    check_protocol_name(name)
    chosen: dict[str, Any] = {field: value for field, value in PROTOCOLS[name].items() if field in PROTOCOL_FIELDS}
    given = {"attack": attack, "loss": loss, "objective": objective}
    chosen = {"attack": "pgd", **chosen, **{part: value for part, value in given.items() if value is not None}}
    mode = chosen.pop("attack_mode", "train")
    kinds: dict[str, type] = {}
    if isinstance(chosen["attack"], Attack):
        raise TypeError("attack has an eps and a norm of its own here: pass its kind, or make Protocol(attack, ...)")
    if isinstance(chosen["attack"], str) != (eps is not None):
        raise TypeError("eps is missing" if eps is None else "eps is not used by an attack of one's own: leave it out")
    if isinstance(chosen["attack"], str):
        one_of(chosen["attack"], "attack", get_args(AttackName))
        kinds["attack"] = Attack
    for part, known in (("loss", LOSSES), ("objective", OBJECTIVES)):
        value = chosen.setdefault(part, next(iter(known)))
        if isinstance(value, str):
            one_of(value, part, tuple(known))
            kinds[part] = dict(known)[value]
    parts = _sorted(name, kinds, OPTIONS.get(chosen["attack"], ()) if "attack" in kinds else (), options)
    if "attack" in kinds:
        threat = {"eps": eps, "norm": norm, "bounds": bounds}
        named = {"mode": mode} if "mode" in OPTIONS[chosen["attack"]] else {}
        chosen["attack"] = Attack(chosen["attack"], **{**named, **threat, **parts["attack"]})
    for part in ("loss", "objective"):
        if part in kinds:
            chosen[part] = kinds[part](**parts[part])
    return Protocol(**{**chosen, **parts["extras"]})


_EXTRAS = ("grad_align", "awp")


def _sorted(
    name: str, kinds: dict[str, type], of_attack: Sequence[str], options: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The options by the part that uses them."""
    owners = {part: [one.name for one in dataclasses.fields(kind) if one.init] for part, kind in kinds.items()}
    owners |= {"attack": list(of_attack), "extras": list(_EXTRAS)}
    found: dict[str, dict[str, Any]] = {part: {} for part in (*owners, "loss", "objective")}
    for option, value in options.items():
        having = [part for part, fields in owners.items() if option in fields]
        if len(having) > 1:
            both = " and ".join(f"{kinds[part].__name__}({option}=...)" for part in having)
            raise TypeError(f"{option} is an option of two parts here: pass {both} as {' and '.join(having)}")
        if not having:
            known = sorted({field for fields in owners.values() for field in fields})
            hint = did_you_mean(option, known)
            raise TypeError(f"protocol {name!r} has no option {option!r}, its options are {', '.join(known)}{hint}")
        found[having[0]][option] = value
    return found


def protocol_of(method: ProtocolConfig, threat: ThreatModel) -> Protocol:
    """The protocol that a configuration writes down."""
    options = {
        "steps": method.attack_steps,
        "step_size": method.step_size,
        "mode": method.attack_mode,
        "replays": method.replays,
    }
    used: dict[str, Any] = {name: options[name] for name in OPTIONS[method.attack]}
    attack = Attack(method.attack, eps=threat.eps, norm=threat.norm, bounds=threat.bounds, **used)
    losses: dict[LossName, Loss] = {
        "cross-entropy": CrossEntropy(method.label_smoothing),
        "trades": Trades(method.trades_beta, method.label_smoothing),
        "mart": Mart(method.mart_lambda),
    }
    objectives: dict[ObjectiveName, Objective] = {
        "mean": Mean(),
        "holistic": Holistic(method.alpha, method.r, method.order),
        "benign": Benign(method.gamma, method.beta, method.tau, method.positives),
    }
    return Protocol(attack, losses[method.loss], objectives[method.objective], method.grad_align, method.awp)
