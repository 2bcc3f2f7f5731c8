"""What changes over a run: learning rates, the momentum, and how strong the training attack is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from fastat.protocols import Attack, Protocol
from fastat.training.config import ConfigError, OptimizerConfig, check

_CYCLIC_PEAK = 0.4
_ONE_CYCLE_PEAK, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.3, 1 / 25, 1 / 250_000

_MOMENTS = 1000

Factor = Callable[[float], float]
"""From the fraction of a run that is over, in [0, 1], to a factor."""


@dataclass(frozen=True)
class Schedule:
    """Factors over a run.

    Attributes:
        rate: of the learning rate.
        momentum: of the momentum; None where it stays.
    """

    rate: Factor
    momentum: Factor | None = None


def schedule_of(settings: OptimizerConfig) -> Schedule:
    """The schedule of that name; its learning rate is ``settings.lr`` times the factor.

    cyclic: linear from 0 to the peak, by default at 0.4, and back to 0 (Smith 2017). cosine: half a cosine from the
    peak to 0 (Loshchilov and Hutter 2017, without restarts). multistep: divided by ten at every milestone; with those
    at 0.5 and 0.75 the schedule on which Rice, Wong and Kolter (2020) saw robust overfitting. one-cycle (Smith and
    Topin 2018): half a cosine from a 25th of the peak to the peak, by default at 0.3, then one to a 250,000th. The
    momentum moves with cyclic where ``peak_momentum`` is given, as in torch's CyclicLR.
    """
    factors: dict[str, Factor] = {
        "cyclic": partial(_cyclic, _CYCLIC_PEAK if settings.peak is None else settings.peak),
        "cosine": partial(_half_cosine, 1.0, 0.0),
        "multistep": lambda progress: 0.1 ** sum(progress >= milestone for milestone in settings.milestones),
        "one-cycle": partial(_one_cycle, _ONE_CYCLE_PEAK if settings.peak is None else settings.peak),
        "constant": lambda progress: 1.0,
    }
    rate = factors[settings.schedule]
    if settings.peak_momentum is None:
        return Schedule(rate)
    reach = 1 - settings.peak_momentum / settings.momentum
    return Schedule(rate, lambda progress: 1 - reach * rate(progress))


def own_schedule(function: Factor) -> Schedule:
    """A schedule of one's own.

    Raises:
        ConfigError: it gives something else than finite numbers >= 0.
    """
    rule = "a function from the fraction of the run that is over, in [0, 1], to a factor of lr, finite and >= 0"
    for moment in range(_MOMENTS + 1):
        try:
            factor = float(function(moment / _MOMENTS))
        except Exception as error:  # whatever the function does
            raise ConfigError("schedule", f"schedule must be {rule}: {type(error).__name__}: {error}") from error
        if not 0 <= factor < math.inf:
            raise ConfigError("schedule", f"schedule must be {rule}, got {factor} at {moment / _MOMENTS}")
    return Schedule(lambda progress: float(function(progress)))


def check_warmups(protocol: Protocol, settings: OptimizerConfig) -> None:
    """Raises :class:`ConfigError` for a warm-up of what the protocol does not have."""
    attacks = isinstance(protocol.attack, Attack) and protocol.attack.kind != "none"
    check(settings.eps_warmup == 0 or attacks, "eps_warmup", settings.eps_warmup, f"0 for {protocol}")
    check(settings.awp_warmup == 0 or protocol.awp > 0, "awp_warmup", settings.awp_warmup, f"0 for {protocol}")


def warmed(protocol: Protocol, settings: OptimizerConfig, epoch: float) -> Protocol:
    """The protocol at a moment of the run, counted in epochs: until the end of ``eps_warmup`` the radius of its attack
    is the share of it that is over, until that of ``awp_warmup`` the weights are not perturbed."""
    if protocol.awp > 0 and epoch < settings.awp_warmup:
        protocol = replace(protocol, awp=0.0)
    if epoch < settings.eps_warmup and isinstance(protocol.attack, Attack):
        radius = protocol.attack.eps * epoch / settings.eps_warmup
        protocol = replace(protocol, attack=replace(protocol.attack, eps=radius))
    return protocol


def _cyclic(peak: float, progress: float) -> float:
    return min(progress / peak, (1 - progress) / (1 - peak))


def _one_cycle(peak: float, progress: float) -> float:
    if progress < peak:
        return _half_cosine(_ONE_CYCLE_START, 1.0, progress / peak)
    return _half_cosine(1.0, _ONE_CYCLE_END, (progress - peak) / (1 - peak))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))
