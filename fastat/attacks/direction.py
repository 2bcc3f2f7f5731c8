"""What a step follows: the gradient at the iterate, or one made of several, remembered, or taken elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastat.attacks.problem import Problem
from fastat.kernels import ops
from fastat.models import logits_of

_SMALLEST = 0.9
"""Of diverse inputs: the side of the smallest, by that of the image."""

_DRAWS = 2**31
"""The first draw of diverse inputs for a seed; those before it are random starts."""


@dataclass(frozen=True)
class Direction:
    """How a step's direction is made.

    Attributes:
        momentum: what is kept of the directions before (Dong et al., "Boosting adversarial attacks with momentum",
            CVPR 2018): g <- momentum g + grad / mean |grad|.
        nesterov: the gradient is taken where momentum alone leads, x_adv + step_size momentum g (Lin et al., "Nesterov
            accelerated gradient and scale invariance for adversarial attacks", ICLR 2020).
        samples: gradients averaged, of a model that is random (expectation over transformation; Athalye et al. 2018).
        diversity: probability that an image is made smaller, by up to a tenth, and padded with zeros at random before
            the model sees it (Xie et al., "Improving transferability of adversarial examples with input diversity",
            CVPR 2019).
    """

    momentum: float = 0.0
    nesterov: bool = False
    samples: int = 1
    diversity: float = 0.0

    @property
    def elsewhere(self) -> bool:
        """Whether the output that comes with the gradient is not that of the iterate."""
        return self.nesterov or self.diversity > 0

    def at(
        self, problem: Problem, x_adv: Tensor, velocity: Tensor | None, size: Any, seed: Tensor | None, draw: int
    ) -> tuple[Any, Tensor, Tensor]:
        """``(output, loss [B], direction)``; ``velocity`` is updated in place.

        Args:
            size: of the step that follows.
            seed, draw: key the random numbers of diverse inputs; the draws from ``draw * samples`` on are used.
        """
        if velocity is None and self.samples == 1 and self.diversity == 0:
            return problem.gradient(x_adv)
        point = x_adv
        if self.nesterov and velocity is not None:
            point = x_adv + size * self.momentum * velocity
        output, loss, grad = self._gradient(problem, point, seed, draw)
        if velocity is None:
            return output, loss, grad
        velocity.mul_(self.momentum).add_(_of_mean_one(grad))
        return output, loss, velocity

    def _gradient(self, problem: Problem, point: Tensor, seed: Tensor | None, draw: int) -> tuple[Any, Tensor, Tensor]:
        if self.samples == 1 and self.diversity == 0:
            return problem.gradient(point)
        outputs, losses, grads = [], [], []
        for sample in range(self.samples):
            change = None
            if seed is not None and self.diversity > 0:
                change = self._diverse(problem, seed, _DRAWS + draw * self.samples + sample)
            output, loss, grad = problem.gradient(point, change)
            outputs.append(output)
            losses.append(loss)
            grads.append(grad)
        return _mean_output(problem, outputs), torch.stack(losses).nanmean(0), torch.stack(grads).nanmean(0)

    def _diverse(self, problem: Problem, seed: Tensor, draw: int) -> Any:
        """Images that are smaller or not, at random, each by its own key."""
        keys = problem.x.new_zeros(len(problem.x), 4, dtype=torch.float32)
        drawn = ops.random_start(keys, 1.0, "linf", seed, problem.sample_ids, None, None, draw=draw)
        uniform = ((drawn + 1) / 2).to(problem.x.dtype)
        share = _SMALLEST + (1 - _SMALLEST) * uniform[:, 0]
        theta = torch.zeros(len(keys), 2, 3, dtype=share.dtype, device=share.device)
        for axis in range(2):
            theta[:, axis, axis] = 1 / share
            theta[:, axis, 2] = (1 - share) * (2 * uniform[:, 1 + axis] - 1) / share
        chosen = (uniform[:, 3] < self.diversity).view(-1, 1, 1, 1)

        def change(x: Tensor) -> Tensor:
            grid = F.affine_grid(theta, list(x.shape), align_corners=False)
            return torch.where(chosen, F.grid_sample(x, grid, align_corners=False), x)

        return change


def _mean_output(problem: Problem, outputs: list[Any]) -> Any:
    """What says which samples are won: the mean of several outputs, or the last of those that have none."""
    goal = problem.objective.goal
    if len(outputs) > 1 and goal.won is None and goal.of_classes:
        outputs = [logits_of(output).detach() for output in outputs]
    same = len(outputs) > 1 and all(isinstance(output, Tensor) for output in outputs)
    return torch.stack([output.detach() for output in outputs]).nanmean(0) if same else outputs[-1]


def _of_mean_one(grad: Tensor) -> Tensor:
    """A gradient whose magnitudes have a mean of 1 in each sample. NaN entries count as zero; where some are infinite,
    they are all that counts."""
    infinite = grad.isinf()
    some = infinite.flatten(1).any(1).view(-1, *[1] * (grad.dim() - 1))
    clean = torch.where(some, infinite * grad.nan_to_num(0.0).sign(), grad.nan_to_num(0.0)).double()
    mean = clean.abs().flatten(1).mean(1).view_as(some)
    return (clean / torch.where(mean > 0, mean, 1.0)).to(grad.dtype)
