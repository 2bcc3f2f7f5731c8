"""The attacks of an evaluation: by name, or any function, called with what it takes."""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastat.attacks import fgsm, pgd
from fastat.graphs import Graph
from fastat.models import Model
from fastat.support.threat import Bounds, Norm

AttackFunction = Callable[..., Tensor]
"""``(model, x, y) -> x_adv``."""

Attacks = Sequence[str | AttackFunction] | Mapping[str, str | AttackFunction]


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
        steps: of an attack by name; None of another, whose results are checked.
    """

    name: str
    run: Callable[[Model, Tensor, Tensor, Tensor], Tensor]
    steps: int | None


def trials_of(attacks: Attacks, threat: Threat) -> list[Trial]:
    """The attacks in their order.

    Raises:
        TypeError, ValueError: one is neither a known name nor a function, or two have one name.
    """
    if isinstance(attacks, str) or not isinstance(attacks, Sequence | Mapping):
        raise TypeError(f"attacks must be a list of names and functions, or a dict of them, got {attacks!r}")
    named = attacks.items() if isinstance(attacks, Mapping) else [(_name(attack), attack) for attack in attacks]
    found = [_trial(name, attack, threat) for name, attack in named]
    names = [trial.name for trial in found]
    for name in names:
        if names.count(name) > 1 or name == "clean":
            raise ValueError(
                f"attacks must have names of their own, got {name!r} twice: pass a dict of name and attack"
            )
    return found


def steps_and_restarts(name: str) -> tuple[int, int]:
    """Of the attack of that name; one step for "fgsm"."""
    if name == "fgsm":
        return 1, 1
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
    shared = {"eps": threat.eps, "norm": threat.norm, "bounds": threat.bounds, "seed": threat.seed}
    shared |= {} if threat.normalization is None else {"normalization": threat.normalization}
    taken = _open_parameters(attack)
    given = {key: value for key, value in shared.items() if key in taken}

    def run(model: Model, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        more = {"sample_ids": ids} if "sample_ids" in taken else {}
        x_adv = attack(model, x, y, **given, **more)
        _check_result(x_adv, x, name, threat)
        return x_adv.detach()

    return Trial(name, run, None)


def _open_parameters(attack: AttackFunction) -> set[str]:
    """The names of what an attack takes and is not bound to something, as a partial may be."""
    bound = attack.keywords if isinstance(attack, functools.partial) else {}
    try:
        return set(list(inspect.signature(attack).parameters)[3:]) - bound.keys()
    except (TypeError, ValueError):  # some built-in ones have none
        return set()


def _name(attack: str | AttackFunction) -> str:
    if isinstance(attack, str):
        return attack
    if isinstance(attack, functools.partial):
        options = ", ".join(f"{key}={getattr(value, '__name__', value)}" for key, value in attack.keywords.items())
        return f"{_name(attack.func)}({options})"
    title = getattr(attack, "title", None)
    return title if isinstance(title, str) else str(getattr(attack, "__name__", type(attack).__name__))


def _check_result(x_adv: Any, x: Tensor, name: str, threat: Threat) -> None:
    """ValueError for results outside the threat model: they would make a network look weaker than it is."""
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        found = list(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(f"attack {name!r} must return a tensor like x, {list(x.shape)}, got {found}")
    delta, result = x_adv.detach().double() - x.double(), x_adv.detach().double()
    if threat.normalization is not None:
        mean, std = (torch.as_tensor(t, dtype=torch.float64, device=x.device) for t in threat.normalization)
        mean, std = (t.view(-1, *[1] * (x.dim() - 2)) if t.dim() == 1 else t for t in (mean, std))
        delta, result = delta * std, result * std + mean
    n, rounding = math.prod(x.shape[1:]), 4 * torch.finfo(x.dtype).eps
    order, slack = {"linf": (math.inf, 1.0), "l2": (2, math.sqrt(n)), "l1": (1, float(n))}[threat.norm]
    far = float(delta.flatten(1).norm(order, dim=1).max())
    if not far <= threat.eps * (1 + 1e-4) + slack * rounding:
        raise ValueError(
            f"attack {name!r} left the ball: {far:.4g} away in {threat.norm}, with eps {threat.eps:.4g}. Its own eps "
            "must be this one, and its result projected"
        )
    lower, upper = (
        -math.inf if threat.bounds is None or threat.bounds[0] is None else threat.bounds[0],
        math.inf if threat.bounds is None or threat.bounds[1] is None else threat.bounds[1],
    )
    low, high = (float(end) for end in result.aminmax())
    if not (low >= lower - rounding - 1e-6 and high <= upper + rounding + 1e-6):
        raise ValueError(f"attack {name!r} left the box: values in [{low:.4g}, {high:.4g}], bounds {threat.bounds}")
