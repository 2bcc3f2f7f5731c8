"""Learning rates over a run."""

from __future__ import annotations

import math

from fastat.training.config import OptimizerConfig

_CYCLIC_PEAK = 0.4
_ONE_CYCLE_PEAK, _ONE_CYCLE_START, _ONE_CYCLE_END = 0.3, 1 / 25, 1 / 250_000


def learning_rate(settings: OptimizerConfig, progress: float) -> float:
    """The learning rate when the fraction ``progress`` of the run, in [0, 1], is over; ``settings.lr`` is its peak.

    cyclic: linear from 0 to the peak at 0.4 and back to 0 (Smith 2017, as Wong et al. 2020 use it). cosine: half a
    cosine from the peak to 0 (Loshchilov and Hutter 2017, without restarts). multistep: divided by ten at every
    milestone; with those at 0.5 and 0.75 the schedule on which Rice, Wong and Kolter (2020) saw robust overfitting.
    one-cycle (Smith and Topin 2018): half a cosine from a 25th of the peak to the peak at 0.3, then one to a 250,000th;
    the momentum stays.
    """
    return settings.lr * _SCHEDULES[settings.schedule](settings, progress)


def _cyclic(settings: OptimizerConfig, progress: float) -> float:
    return min(progress / _CYCLIC_PEAK, (1 - progress) / (1 - _CYCLIC_PEAK))


def _cosine(settings: OptimizerConfig, progress: float) -> float:
    return _half_cosine(1.0, 0.0, progress)


def _multistep(settings: OptimizerConfig, progress: float) -> float:
    return 0.1 ** sum(progress >= milestone for milestone in settings.milestones)


def _one_cycle(settings: OptimizerConfig, progress: float) -> float:
    if progress < _ONE_CYCLE_PEAK:
        return _half_cosine(_ONE_CYCLE_START, 1.0, progress / _ONE_CYCLE_PEAK)
    return _half_cosine(1.0, _ONE_CYCLE_END, (progress - _ONE_CYCLE_PEAK) / (1 - _ONE_CYCLE_PEAK))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


_SCHEDULES = {"cyclic": _cyclic, "cosine": _cosine, "multistep": _multistep, "one-cycle": _one_cycle}
