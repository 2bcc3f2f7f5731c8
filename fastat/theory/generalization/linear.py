"""Linear classification under l2 attack, in which every expectation and every worst case has a closed form.

An image is x = y (separation e_1 + radius u) with u uniform in the unit ball of R^d and a label y = 1 or -1. All that a
linear model w sees of it is z = y x: under attack the margin is min over ||delta|| <= eps of y w.(x + delta) =
w.z - eps ||w||, and the loss is the logistic one of that margin. The support is bounded, so the largest loss that the
distribution can produce is a number, as the theorem of Bennouna, Lucas and Van Parys (2023) needs it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from scipy.special import roots_gegenbauer
from torch import Tensor

Corruption = Literal["none", "flip", "hide"]
CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)

_NODES = 64  # of the quadrature; the integrand is analytic


@dataclass(frozen=True)
class Problem:
    """A distribution of images and the adversary.

    Attributes:
        dimension: d, at least 2.
        separation: distance of the centre of each class from the origin.
        radius: of the ball around it that the class fills evenly.
        eps: radius of the attack in the l2 norm, in the unit of the other two.
    """

    dimension: int
    separation: float
    radius: float
    eps: float

    def sample(self, samples: int, n: int, generator: torch.Generator) -> Tensor:
        """z of ``samples`` samples of n points, float64 [samples, n, d], on the generator's device."""
        shape = (samples, n, self.dimension)
        u = torch.randn(shape, generator=generator, dtype=torch.float64)
        length = torch.rand((samples, n, 1), generator=generator, dtype=torch.float64) ** (1 / self.dimension)
        z = self.radius * u * (length / u.norm(dim=2, keepdim=True))
        z[..., 0] += self.separation
        return z

    def corrupt(self, z: Tensor, corruption: Corruption, fraction: float) -> Tensor:
        """The samples [samples, n, d] with floor(fraction n) points of each replaced.

        "flip" changes the labels of the first ones, which are any: z becomes -z. "hide" is the adversary that makes a
        sample look easier than its distribution: it takes the points away that are hardest for the best direction, e_1,
        and puts the easiest point of the support there.

        Raises:
            ValueError: an unknown corruption.
        """
        if corruption not in CORRUPTIONS:
            raise ValueError(f"corruption must be one of {', '.join(CORRUPTIONS)}, got {corruption!r}")
        count = int(fraction * z.shape[1] + 1e-9)
        if corruption == "none" or count == 0:
            return z
        z = z.clone()
        if corruption == "flip":
            z[:, :count] = -z[:, :count]
            return z
        hardest = z[..., 0].argsort(1)[:, :count, None].expand(-1, -1, self.dimension)
        easiest = self._axis(z) * (self.separation + self.radius)
        return z.scatter(1, hardest, easiest.expand(len(z), count, -1))

    def margins(self, w: Tensor, z: Tensor) -> Tensor:
        """Worst margin within eps of each point: [samples, n] for models w [samples, d] and their points z."""
        return (z @ w[:, :, None])[..., 0] - self.eps * w.norm(dim=1, keepdim=True)

    def least_margin(self, w: Tensor) -> Tensor:
        """The smallest margin that a point of the support can have, [samples]."""
        return self.separation * w[:, 0] - (self.radius + self.eps) * w.norm(dim=1)

    def margin_gradient(self, w: Tensor, weights: Tensor, z: Tensor, weight_least: Tensor) -> Tensor:
        """Gradient in w of sum_i weights_i margin_i + weight_least least_margin: [samples, d]; 0 / 0 at w = 0 is 0."""
        direction = w / w.norm(dim=1, keepdim=True).clamp_min(1e-12)
        shrinking = self.eps * weights.sum(1) + (self.radius + self.eps) * weight_least
        pulled = (weights[:, None] @ z)[:, 0] + self.separation * weight_least[:, None] * self._axis(w)
        return pulled - shrinking[:, None] * direction

    def population_loss(self, w: Tensor) -> Tensor:
        """E of the adversarial loss over the distribution, [samples], to rounding: Gauss-Gegenbauer quadrature.

        The projection of a uniform point of the ball on any direction has the density (1 - t^2)^((d - 1) / 2).
        """
        nodes, weights = roots_gegenbauer(_NODES, self.dimension / 2)
        t, share = w.new_tensor(nodes), w.new_tensor(weights / weights.sum())
        length = w.norm(dim=1, keepdim=True)
        return F.softplus(-(self.separation * w[:, :1] + length * (self.radius * t - self.eps))) @ share

    def _axis(self, like: Tensor) -> Tensor:
        axis = like.new_zeros(self.dimension)
        axis[0] = 1
        return axis
