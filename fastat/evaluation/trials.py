"""The attacks of an evaluation: by name, or any function, called with what it takes."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fastat.attacks import fgsm, pgd
from fastat.evaluation.running import left_as_it_is
from fastat.graphs import Graph
from fastat.models import Model
from fastat.support.threat import Bounds, Norm

AttackFunction = Callable[..., Tensor]
"""``(model, x, y) -> x_adv``."""

Attacks = Sequence[str | AttackFunction] | Mapping[str, str | AttackFunction]

WORST = "worst case"
_OURS: Mapping[Any, int | None] = {fgsm: 1, pgd: None}
"""Attacks of this library, and how many steps they take; None where an option says it."""


@dataclass(frozen=True)
class Threat:
    """What every attack of an evaluation is told."""

    eps: float
    norm: Norm
    bounds: Bounds
    seed: int
    normalization: Any
    graph: Graph


@dataclass(frozen=True)
class Trial:
    """One attack: ``run(model, x, y, ids) -> x_adv``.

    Attributes:
        steps: how many it takes; None where that is not known.
    """

    name: str
    run: Callable[[Model, Tensor, Tensor, Tensor], Tensor]
    steps: int | None


def check_seed(seed: object) -> None:
    """TypeError unless it is a whole number."""
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an integer, got {type(seed).__name__}")


def trials_of(attacks: Attacks, threat: Threat) -> list[Trial]:
    """The attacks in their order.

    Raises:
        TypeError, ValueError: one is neither a known name nor a function, takes other arguments, or two have one name.
    """
    if isinstance(attacks, str) or not isinstance(attacks, Sequence | Mapping):
        raise TypeError(f"attacks must be a list of names and functions, or a dict of them, got {attacks!r}")
    named = attacks.items() if isinstance(attacks, Mapping) else [(_name(attack), attack) for attack in attacks]
    found = [_trial(name, attack, threat) for name, attack in named]
    names = ["clean", WORST, *(trial.name for trial in found)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"attacks must have names of their own, got {name!r} twice: pass a dict of them by name")
    return found


def steps_and_restarts(name: str) -> tuple[int, int]:
    """Of the attack of that name; one step for "fgsm"."""
    if name == "fgsm":
        return 1, 1
    if not isinstance(name, str):
        raise TypeError(f"attack must be a name, got {type(name).__name__}")
    match = re.fullmatch(r"pgd-([1-9]\d*)(?:x([1-9]\d*))?", name)
    if match is None:
        raise ValueError(f"unknown attack {name!r}; known are fgsm, pgd-STEPS and pgd-STEPSxRESTARTS")
    return int(match[1]), int(match[2] or 1)


def named_attack(name: str, threat: Threat) -> Callable[[Model, Tensor, Tensor, Tensor], Tensor]:
    """The attack of that name as a function of (model, x, y, ids)."""
    steps, restarts = steps_and_restarts(name)
    shared: dict[str, Any] = {
        "norm": threat.norm, "bounds": threat.bounds, "normalization": threat.normalization, "graph": threat.graph
    }  # fmt: skip
    if name == "fgsm":
        return lambda model, x, y, ids: fgsm(model, x, y, threat.eps, **shared)
    return lambda model, x, y, ids: pgd(
        model, x, y, threat.eps, steps=steps, restarts=restarts, early_stop=True, seed=threat.seed, sample_ids=ids,
        **shared,
    )  # fmt: skip


def _trial(name: str, attack: str | AttackFunction, threat: Threat) -> Trial:
    if isinstance(attack, str):
        return Trial(name, named_attack(attack, threat), steps_and_restarts(attack)[0])
    if not callable(attack):
        raise TypeError(f"attacks must be names or functions (model, x, y) -> x_adv, got {attack!r}")
    shared: dict[str, Any] = {"eps": threat.eps, "norm": threat.norm, "bounds": threat.bounds, "seed": threat.seed}
    shared["sample_ids"] = None  # those of the batch
    shared |= {} if threat.normalization is None else {"normalization": threat.normalization}
    given = {key: value for key, value in shared.items() if key in _open_parameters(attack, name)}

    def run(model: Model, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        if "sample_ids" in given:
            given["sample_ids"] = ids
        with left_as_it_is(model), torch.inference_mode(False), torch.enable_grad():
            x_adv = attack(model, x.clone(), y.clone(), **given)
        x_adv = _in_the_form_of(x, x_adv, name)
        _check_threat(x_adv, x, name, threat)
        return x_adv

    return Trial(name, run, _steps_of(attack))


def _open_parameters(attack: AttackFunction, name: str) -> set[str]:
    """The names of what an attack takes beside (model, x, y) and is not bound to something, as a partial may be."""
    try:
        signature = inspect.signature(attack)
    except (TypeError, ValueError):  # some built-in ones have none
        return set()
    bound = attack.keywords if isinstance(attack, functools.partial) else {}
    known = {"eps", "norm", "bounds", "seed", "sample_ids", "normalization"}
    taken = (signature.parameters.keys() & known) - bound.keys()
    try:
        signature.bind(None, None, None, **dict.fromkeys(taken))
    except TypeError as error:
        raise TypeError(
            f"attack {name!r} is called as (model, x, y), which it does not take: {error}. Wrap it, "
            "lambda model, x, y: attack(x, y) for example"
        ) from error
    return taken


def _steps_of(attack: AttackFunction) -> int | None:
    if isinstance(attack, functools.partial) and attack.func in _OURS:
        return _OURS[attack.func] or attack.keywords.get("steps", 10)
    return _OURS.get(attack) or 10 if attack in _OURS else None


def _name(attack: str | AttackFunction) -> str:
    if isinstance(attack, str):
        return attack
    if isinstance(attack, functools.partial):
        options = ", ".join(f"{key}={_short(value)}" for key, value in attack.keywords.items())
        return f"{_name(attack.func)}({options})"
    title = getattr(attack, "title", None)
    return title if isinstance(title, str) else str(getattr(attack, "__name__", type(attack).__name__))


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return "tensor"
    text = str(getattr(value, "__name__", value))
    return text if len(text) <= 20 else f"{text[:17]}..."


def _in_the_form_of(x: Tensor, x_adv: Any, name: str) -> Tensor:
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape or x_adv.device != x.device:
        found = f"{list(x_adv.shape)} on {x_adv.device}" if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(f"attack {name!r} must return a tensor like x, {list(x.shape)} on {x.device}, got {found}")
    return x_adv.detach().to(x.dtype)


def _check_threat(x_adv: Tensor, x: Tensor, name: str, threat: Threat) -> None:
    """ValueError for results outside the threat model, which would make a network look weaker than it is: by more than
    the rounding of the entries that moved."""
    before, after = x.double(), x_adv.double()
    if threat.normalization is not None:
        mean, std = (torch.as_tensor(t, dtype=torch.float64, device=x.device) for t in threat.normalization)
        mean, std = (t.view(-1, *[1] * (x.dim() - 2)) if t.dim() == 1 else t for t in (mean, std))
        before, after = before * std + mean, after * std + mean
    delta = (after - before).flatten(1)
    ulp = torch.finfo(x.dtype).eps * torch.maximum(before.abs(), after.abs()).flatten(1) * (delta != 0)
    order = {"linf": math.inf, "l2": 2, "l1": 1}[threat.norm]
    far = torch.linalg.vector_norm(delta, order, dim=1)
    rounding = torch.linalg.vector_norm(ulp, order, dim=1)
    if not bool((far <= threat.eps * (1 + 1e-4) + 1e-6 + rounding).all()):
        raise ValueError(
            f"attack {name!r} left the ball: {float(far.max()):.4g} away in {threat.norm}, with eps {threat.eps:.4g}. "
            "Its own eps must be this one, and its result projected"
        )
    lower, upper = threat.bounds or (None, None)
    low, high = (float(end) for end in after.aminmax())
    slack = 1e-6 + 2 * torch.finfo(x.dtype).eps
    if (lower is not None and low < lower - slack) or (upper is not None and high > upper + slack):
        raise ValueError(f"attack {name!r} left the box: values in [{low:.4g}, {high:.4g}], bounds {threat.bounds}")
