"""The attack that a protocol trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from fastat.attacks import fgsm, pgd
from fastat.graphs import Graph
from fastat.kernels.ops import random_start
from fastat.models import Model
from fastat.protocols.config import ProtocolConfig
from fastat.support.threat import Bounds, ThreatModel

TrainingAttack = Callable[..., Tensor]
"""``(model, x, y, seed=, sample_ids=, graph=False) -> x_adv``; with ``graph`` the attack may be recorded."""

_TRADES_NOISE = 1e-3  # the authors start from normal noise of this size; here it is uniform

# noise as a multiple of eps, step as a multiple of eps, whether the result is clipped to the ball
_SINGLE_STEP: Mapping[str, tuple[float, float, bool]] = {
    "fgsm": (0.0, 1.0, True),
    "rs-fgsm": (1.0, 1.25, True),
    "n-fgsm": (2.0, 1.0, False),
}


def attack_of(method: ProtocolConfig, threat: ThreatModel) -> TrainingAttack:
    """The attack that a run trains on.

    Without a step size of its own a single step has that of its paper; those of PGD are 2.5 eps / steps, in TRADES and
    MART too (whose authors take 0.007 for eps 0.031 and ten steps).

    Not for "free", whose perturbation is moved by the step of the training itself (:mod:`fastat.training.step`).
    """
    # the dataset was checked when it was made; on a GPU a check of every batch would wait for it
    shared: dict[str, Any] = {"eps": threat.eps, "norm": threat.norm, "bounds": threat.bounds, "validate": False}
    if method.attack == "none":
        return _no_attack
    if method.attack == "pgd":
        return partial(pgd, step_size=method.step_size, steps=method.attack_steps, **shared)
    if method.attack == "pgd-kl":
        return partial(_trades_attack, step_size=method.step_size, steps=method.attack_steps, **shared)
    noise, step, clip = _SINGLE_STEP[method.attack]
    step_size = step * threat.eps if method.step_size is None else method.step_size
    return partial(fgsm, step_size=step_size, noise=noise, clip=clip, **shared)


def _no_attack(
    model: Model, x: Tensor, y: Tensor, *, seed: int | Tensor, sample_ids: Tensor, graph: Graph = False
) -> Tensor:
    return x


def _trades_attack(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    bounds: Bounds,
    seed: int | Tensor,
    sample_ids: Tensor,
    **options: Any,
) -> Tensor:
    """PGD on the divergence from the clean prediction, which has no gradient at x itself: from a point close by."""
    lower, upper = bounds or (None, None)
    start = random_start(x, min(_TRADES_NOISE, eps), "linf", seed, sample_ids, lower, upper)
    return pgd(model, x, y, eps, loss="kl", start=start, bounds=bounds, sample_ids=sample_ids, **options)
