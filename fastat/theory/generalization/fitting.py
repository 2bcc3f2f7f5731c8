"""Linear models that minimize the HR loss of their samples, many samples at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from fastat.theory.generalization.linear import Problem
from fastat.theory.generalization.worst_case import worst_case_weights

Worst = Literal["support", "sample"]
WORSTS: tuple[Worst, ...] = get_args(Worst)

WEIGHT_DECAY = 0.01  # w^2/2 of it is added, else a sample that a model separates would have no minimum
_STEPS = 60
_SHORTEST, _LONGEST = 1e-4, 20.0


@dataclass(frozen=True)
class Fitted:
    """Models of many samples.

    Attributes:
        w: [samples, d].
        loss: [samples], the HR loss of each sample at its model, without the weight decay.
        gradient: [samples], the norm of the gradient of what is minimized. At a kink of the HR loss it stays above 0
            at the minimum too: where losses tie for being trimmed or for being the worst (alpha > 0), and at w = 0.
    """

    w: Tensor
    loss: Tensor
    gradient: Tensor


def fit(problem: Problem, z: Tensor, alpha: float, r: float, worst: Worst) -> Fitted:
    """The model of each sample that minimizes its HR loss plus weight decay, a convex problem.

    Gradient descent from e_1 / 2 with the step sizes of Barzilai and Borwein (1988); the gradient is that of the
    envelope theorem, the worst-case weights being constants. The best of 60 iterates is returned. alpha = r = 0 is
    ordinary adversarial training.

    Args:
        problem: the adversary, and the support.
        z: [samples, n, d].
        alpha, r: see :func:`fastat.holistic_weights`.
        worst: the loss that mass is moved to: "support", the largest that the distribution can produce (or that of a
            corrupted point, if larger), or "sample", the largest in the sample, as in training on batches.

    Raises:
        ValueError: an unknown worst.
    """
    if worst not in WORSTS:
        raise ValueError(f"worst must be one of {', '.join(WORSTS)}, got {worst!r}")
    w = z.new_zeros(len(z), z.shape[2])
    w[:, 0] = 0.5
    value, gradient, loss = _objective(problem, w, z, alpha, r, worst)
    best, found = value, Fitted(w, loss, gradient.norm(dim=1))
    step = torch.full_like(value, 0.5)
    for turn in range(_STEPS):
        w_new = w - step[:, None] * gradient
        value, gradient_new, loss = _objective(problem, w_new, z, alpha, r, worst)
        step = _step_size(w_new - w, gradient_new - gradient, long=turn % 2 == 0)
        w, gradient = w_new, gradient_new
        better = value < best
        best = torch.where(better, value, best)
        found = Fitted(
            torch.where(better[:, None], w, found.w),
            torch.where(better, loss, found.loss),
            torch.where(better, gradient.norm(dim=1), found.gradient),
        )
    return found


def _objective(
    problem: Problem, w: Tensor, z: Tensor, alpha: float, r: float, worst: Worst
) -> tuple[Tensor, Tensor, Tensor]:
    """What is minimized, its gradient, and the HR loss without the weight decay."""
    margins = problem.margins(w, z)
    losses = F.softplus(-margins)
    top, where = losses.max(1)
    least = problem.least_margin(w)
    of_support = F.softplus(-least)
    outside = (of_support > top) if worst == "support" else torch.zeros_like(top, dtype=torch.bool)
    p, p_worst = worst_case_weights(losses, torch.where(outside, of_support, top), alpha, r)
    p = p.scatter_add(1, where[:, None], torch.where(outside, 0.0, p_worst)[:, None])
    p_outside = torch.where(outside, p_worst, 0.0)
    loss = (p * losses).sum(1) + p_outside * of_support
    pulls = problem.margin_gradient(w, p * torch.sigmoid(-margins), z, p_outside * torch.sigmoid(-least))
    return loss + WEIGHT_DECAY / 2 * (w * w).sum(1), WEIGHT_DECAY * w - pulls, loss


def _step_size(moved: Tensor, changed: Tensor, *, long: bool) -> Tensor:
    """Barzilai and Borwein's long or short step, [samples]; both are inverse curvatures along the last step."""
    along = (moved * changed).sum(1)
    ratio = (moved * moved).sum(1) / along if long else along / (changed * changed).sum(1)
    return torch.where(along > 0, ratio, _SHORTEST).nan_to_num(_SHORTEST).clamp(_SHORTEST, _LONGEST)
