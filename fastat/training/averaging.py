"""Averages of a network's weights over its training.

Not torch's AveragedModel: it reads its count on the host at every update, so a step on a GPU waits for it and cannot be
recorded; with batch norm's statistics averaged it divides the integer counters, which CUDA refuses; and its names start
with "module.".
"""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


def average_of(model: nn.Module) -> nn.Module:
    """A copy of the network to hold the average of its weights, which take no gradient."""
    with torch.no_grad():  # of a scripted module it would be computed from the weights
        average = copy.deepcopy(model).eval()
    for parameter in average.parameters():  # one by one: a scripted module has no requires_grad_
        parameter.requires_grad_(False)
    return average


@torch.no_grad()
def move_average_(average: nn.Module, model: nn.Module, share: float | Tensor) -> None:
    """``average <- average + share (model - average)``, for all parameters and statistics.

    The statistics of batch norm are averaged like the weights: no further pass over the data is needed, but they are
    not exactly those of the averaged network. Counters are copied.

    Args:
        share: in [0, 1], a number or a 0-d float32 tensor. As a number, 1 copies also what is not finite.
    """
    pairs = list(zip(_state(average), _state(model), strict=True))
    copied = [pair for pair in pairs if not pair[0].is_floating_point()]
    moved = [pair for pair in pairs if pair[0].is_floating_point()]
    if not isinstance(share, Tensor) and share == 1:
        copied, moved = pairs, []
    for mean, value in copied:
        mean.copy_(value)
    if moved:
        means, values = map(list, zip(*moved, strict=True))
        differences = torch._foreach_sub(values, means)
        torch._foreach_mul_(differences, share)
        torch._foreach_add_(means, differences)


def ema_share(decay: float, step: int) -> float:
    """The share of the newest weights in the exponential average after ``step`` >= 1 steps.

    ``1 - decay``, and more at the start, as the average of the first steps would otherwise stay near the initial
    weights: ``1 - min(decay, step / (step + 9))``.
    """
    return 1 - min(decay, step / (step + 9))


def _state(model: nn.Module) -> list[Tensor]:
    return list(chain(model.parameters(), model.buffers()))
