"""A classifier that is right on a whole ball around every training point, whatever it was before."""

from __future__ import annotations

import copy
import math
from numbers import Real

import torch
from torch import Tensor, nn

from fastat.theory.cgro.separation import BallNorm, close_pairs, least_separation

_AT_A_TIME = 500  # points that go through the model at a time
_ROUNDING = 8.0  # in units of the type's precision: what rounding adds to the radius of a ball, and more


class RobustMemorizer(nn.Module):
    """The network f_S = clip(f) + M sum_i e_{y_i} bump_i, whose class is y_i on all of the ball around every x_i.

    The construction behind the upper bound of Li and Li, "On the clean generalization and robust overfitting in
    adversarial training" (ICML 2025), with the published form, sign(f_S) with y in {-1, +1}, where the model has one
    output::

        bump_i(x) = relu(1 - e_i(x) / t),    e_i(x) = sum_k relu(|x_k - x_ik| - delta)

    is 1 on the ball of radius delta in the maximum norm and 0 where the distance is delta + t or more. With relu(u -
    delta) + relu(-u - delta) for relu(|u| - delta), it is a ReLU network with 2 N D units in the first layer, each of
    which sees one coordinate, and N in the second. t is half of what separates the balls of different classes, so that
    no bump reaches into a ball of another class; delta is widened by a few units of rounding, so that the network does
    in floating point what it does exactly.

    With one output, clip(f) = clip(f, -c, c) and M = 2 c. With several, the logits are shifted first, so that the
    largest is c: clip(f) = max(f - max f + c, -c) has the same class as f for every x, and M = 3 c. c is large enough
    that nothing is clipped at the training points.

    The forward pass evaluates the bumps that are not zero, and these exactly: their gradient is that of the network.
    With norm "l2" the balls are Euclidean, e_i(x) = relu(|x - x_i| - delta), which is no ReLU network.

    Args:
        model: takes [B, ...] and returns logits [B, C], or [B, 1]. It is copied, in eval mode, and left as it is.
        x: the training points, float32 or float64 [N, ...], N >= 1, on the model's device.
        y: int64 [N]: classes from 0 to C - 1, or -1 and +1 for one output.
        delta: radius of the balls, above 0, in the unit of x.
        norm: "linf" or "l2".

    Attributes:
        separation: the least distance between two points of different classes; infinite for a single class.
        ramp: t, how far beyond its ball a bump reaches, in the unit of x.
        clip: c, the largest size of a clipped logit.
        height: M, what a bump adds to the logit of its class.

    Raises:
        TypeError: x is not float32 or float64, y is not int64, delta is no number.
        ValueError: shapes that disagree, labels that do not fit the model's outputs, an infinite or NaN x, a delta
            that is not finite and above 0, an unknown norm, or two points of different classes at a distance of 2
            delta or less: the message names the first such pair with the least distance.
    """

    points: Tensor
    labels: Tensor

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, delta: float, norm: BallNorm = "linf") -> None:
        super().__init__()
        _check(x, y, delta, norm)
        self.delta, self.norm = float(delta), norm
        self.model = copy.deepcopy(model).eval()
        self.register_buffer("points", x.detach().flatten(1).clone())
        self.register_buffer("labels", y.clone())
        logits = self._logits_at(x)
        self.outputs = logits.shape[1]
        _check_labels(y, self.outputs)

        self.separation, pair = least_separation(self.points, y, norm)
        self._radius = self.delta + _slack(self.points, self.delta, norm)
        gap = self.separation - 2 * self._radius
        if gap <= 0:
            first, second = pair
            raise ValueError(
                f"delta={delta} needs points of different classes more than 2 delta = {2 * self.delta:g} apart, but "
                f"x[{first}] and x[{second}] (classes {int(y[first])} and {int(y[second])}) are {self.separation:.6g} "
                f"apart in {norm}"
            )
        self.ramp = gap / 2 if math.isfinite(gap) else self.delta
        if self.outputs == 1:
            self.clip = max(1.0, float(logits.abs().max()))
            self.height = 2 * self.clip
        else:
            self.clip = max(1.0, float((logits.amax(1) - logits.amin(1)).max()) / 2)
            self.height = 3 * self.clip

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C], or [B, 1], of x [B, ...]."""
        return self.clipped(x) + self.height * self.class_bumps(x)

    def clipped(self, x: Tensor) -> Tensor:
        """What the model says without the bumps: its logits in [-c, c], of the same class."""
        logits: Tensor = self.model(x)
        if self.outputs == 1:
            return logits.clamp(-self.clip, self.clip)
        return (logits - logits.amax(1, keepdim=True) + self.clip).clamp(min=-self.clip)

    def class_bumps(self, x: Tensor) -> Tensor:
        """The sum of the bumps of each class, [B, C]; with one output the sum of y_i bump_i, [B, 1]."""
        if x.shape[1:].numel() != self.points.shape[1]:
            raise ValueError(
                f"x must be a batch of inputs of {self.points.shape[1]} numbers each, got shape {tuple(x.shape)}"
            )
        flat = x.flatten(1).to(self.points.dtype)
        row, point = close_pairs(flat.detach(), self.points, self._radius + self.ramp, self.norm)
        bump = torch.relu(1 - self._excess(flat[row] - self.points[point]) / self.ramp)
        sums = bump.new_zeros(len(x) * self.outputs)
        if self.outputs == 1:
            return sums.index_add(0, row, bump * self.labels[point]).view(-1, 1)
        return sums.index_add(0, row * self.outputs + self.labels[point], bump).view(-1, self.outputs)

    def in_foreign_bump(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether the bump of a point of another class reaches x: bool [B].

        Only there can the memorizer be wrong where the model is right.

        Args:
            x: [B, ...].
            y: int64 [B], what each x is.
        """
        flat = x.detach().flatten(1).to(self.points.dtype)
        row, point = close_pairs(flat, self.points, self._radius + self.ramp, self.norm)
        reached = self._excess(flat[row] - self.points[point]) < self.ramp
        found = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        found[row[reached & (self.labels[point] != y[row])]] = True
        return found

    @torch.no_grad()
    def certify(self) -> Tensor:
        """The margin on each ball: [N], what the logit of y_i exceeds every other one by at any point of it, at least.

        With one output, what y_i f_S exceeds 0 by. A positive margin proves that every point of the ball of radius
        delta around x_i is classified right, of any model: it is M - 2 c (with one output M - c), the margin where the
        model is as wrong as clipping lets it be, less what bumps of other classes can add within the ball, which is
        computed here from the points as they are now.

        Returns:
            float [N], of the type of the points.
        """
        # in the ball around x_i, |x - x_j| >= |x_i - x_j| - radius: a bump that is farther than this adds nothing
        i, j = close_pairs(self.points, self.points, 2 * self._radius + self.ramp, self.norm)
        foreign = self.labels[i] != self.labels[j]
        i, j = i[foreign], j[foreign]
        difference = self.points[i] - self.points[j]
        distance = difference.abs().amax(1) if self.norm == "linf" else difference.norm(dim=1)
        worst = torch.relu(1 - torch.relu(distance - 2 * self._radius) / self.ramp)
        margin = self.height - (1 if self.outputs == 1 else 2) * self.clip
        return self.points.new_full((len(self.points),), margin).index_add(0, i, -self.height * worst)

    def parameter_count(self) -> int:
        """The nonzero parameters of the bumps: about 6 N D + 2 N, linear in the points and in their coordinates.

        Counted from the points: of the 2 N D units of the first layer one weight each into it, its bias where that is
        not zero, and one weight out of it; of the N units of the second a bias and a weight M. Those of the shift and
        of the clipping, a number that depends on the classes alone, are left out. For norm "l2", which is no such
        network, the numbers it stores: the points, and a weight and a radius of each.
        """
        n, coordinates = self.points.shape
        if self.norm == "l2":
            return n * coordinates + 2 * n
        biases = sum(int((self.points + side * self._radius != 0).sum()) for side in (-1, 1))
        return 4 * n * coordinates + biases + 2 * n

    def _excess(self, difference: Tensor) -> Tensor:
        """e_i for each row x - x_i."""
        if self.norm == "linf":
            return torch.relu(difference.abs() - self._radius).sum(1)
        return torch.relu(difference.norm(dim=1) - self._radius)

    @torch.no_grad()
    def _logits_at(self, x: Tensor) -> Tensor:
        logits = torch.cat([self.model(part) for part in x.split(_AT_A_TIME)])
        if logits.dim() != 2:
            raise ValueError(f"model must return logits [B, C] or [B, 1], got shape {tuple(logits.shape)}")
        return logits.double()


def _slack(points: Tensor, delta: float, norm: BallNorm) -> float:
    """More than rounding can move a point of a ball, and the computed distance from its centre, outwards."""
    unit, size = _ROUNDING * torch.finfo(points.dtype).eps, float(points.abs().max())
    if norm == "linf":
        return unit * (size + delta)
    return unit * (points.shape[1] ** 0.5 * size + points.shape[1] * delta)


def _check(x: Tensor, y: Tensor, delta: float, norm: str) -> None:
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm must be linf or l2, got {norm!r}")
    if isinstance(delta, bool) or not isinstance(delta, Real):
        raise TypeError(f"delta must be a number, got {type(delta).__name__}")
    if not 0 < delta < math.inf:
        raise ValueError(f"delta must be finite and above 0, got {delta}")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    if y.dtype != torch.int64:
        raise TypeError(f"y must be int64, got {y.dtype}")
    if x.dim() < 2 or len(x) == 0 or y.shape != x.shape[:1]:
        raise ValueError(f"needs x [N, ...] with N >= 1 and y [N], got {tuple(x.shape)} and {tuple(y.shape)}")
    if not bool(x.isfinite().all()):
        raise ValueError("x must be finite, got an infinite or NaN value")


def _check_labels(y: Tensor, outputs: int) -> None:
    if outputs == 1 and not bool((y.abs() == 1).all()):
        raise ValueError(f"y must be -1 or +1 for a model with one output, got {int(y[y.abs() != 1][0])}")
    if outputs > 1 and (int(y.min()) < 0 or int(y.max()) >= outputs):
        raise ValueError(f"y must be in 0..{outputs - 1} for the model's logits, got {int(y.min())}..{int(y.max())}")
