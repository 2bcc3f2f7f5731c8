"""The HR loss (order "hd") of many samples at once, with a worst case that need not be in the sample.

:func:`fastat.holistic_weights` solves one batch, and its worst case is the largest loss of that batch. The theorem's is
the largest loss that the distribution can produce: an atom of its own, onto which the divergence may move mass even
where the sample has none. Both are here, for a whole table of samples, in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST, _LARGEST = -60.0, 60.0  # the bracket of log c, where the largest gap is 1
_TURNS = 8  # Newton's method takes 4 to 6; a fixed number needs no look at the device


def worst_case_weights(losses: Tensor, worst: Tensor, alpha: float, r: float) -> tuple[Tensor, Tensor]:
    """The worst-case distribution over the losses of each sample and its worst atom.

    As in :func:`fastat.holistic_weights`: the ``alpha`` of mass with the smallest losses goes to the worst atom, which
    gives masses q; then p maximizes the mean loss over KL(q || p) <= r (Bennouna, Lucas, Van Parys 2023). With the gaps
    g = worst - l, p_i is proportional to q_i / (c + g_i), and c > 0 is the root of

        G(c) = sum q log(c + g) + log(sum q / (c + g)) = r,

    a decreasing function. If the worst atom has no mass in q, G(0) is finite; if it is below r, then c = 0 and what the
    others lose is the worst atom's.

    Args:
        losses: [samples, n], float64.
        worst: [samples], the loss of the worst atom; at least the sample's largest loss.
        alpha: in [0, 1).
        r: radius in nats; 0 or at least 1e-6 (below, rounding shows).

    Returns:
        The probabilities of the losses, [samples, n], and of the worst atom, [samples]. Together they sum to 1.
    """
    q, q_worst = _trimmed(losses, alpha)
    if r == 0:
        return q, q_worst
    gaps = worst[:, None] - losses
    gaps = gaps / gaps.amax(1, keepdim=True).clamp_min(1e-300)
    c = _root(q, q_worst, gaps, r)
    inner, inner_worst = q / (c[:, None] + gaps), q_worst / c
    normal = inner.sum(1) + inner_worst
    # at c = 0 the divergence alone fixes the shares, by sum q log(q / p) = r, and the worst atom gets the rest
    apart = gaps.clamp_min(1e-300)
    log_apart, at_zero = (q * apart.log()).sum(1), q / apart
    empty = (q_worst == 0) & (gaps.amin(1) > 0) & (log_apart + at_zero.sum(1).log() < r)
    p = torch.where(empty[:, None], at_zero * torch.exp(log_apart - r)[:, None], inner / normal[:, None])
    return p, torch.where(empty, 1 - p.sum(1), inner_worst / normal)


def _trimmed(losses: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Masses after ``alpha`` of them, those of the smallest losses first, has gone to the worst atom."""
    samples, n = losses.shape
    if alpha == 0:
        return torch.full_like(losses, 1 / n), losses.new_zeros(samples)
    rank = losses.argsort(1).argsort(1)
    return 1 / n - (alpha - rank.double() / n).clamp(0, 1 / n), losses.new_full((samples,), alpha)


def _root(q: Tensor, q_worst: Tensor, gaps: Tensor, r: float) -> Tensor:
    """c [samples] by Newton's method in z = log c on log(exp G - 1), nearly straight there, within a bracket."""
    low, high = q_worst.new_full(q_worst.shape, _LEAST), q_worst.new_full(q_worst.shape, _LARGEST)
    mean = (q * gaps).sum(1)
    spread = ((q * gaps**2).sum(1) - mean**2).clamp_min(0)
    z = (spread / (2 * r)).sqrt().clamp_min(1e-12).log()  # G is about spread / (2 c^2) for small r
    target = math.log(math.expm1(r))
    for _ in range(_TURNS):
        c = z.exp()
        v = c[:, None] + gaps
        first, second = q / v, q / v**2
        s1, s2 = first.sum(1) + q_worst / c, second.sum(1) + q_worst / c**2
        g = (q * v.log()).sum(1) + q_worst * z + s1.log()
        above = torch.expm1(g).clamp_min(1e-300)
        excess = above.log() - target
        slope = (1 + above) / above * c * (s1 - s2 / s1)
        low, high = torch.where(excess > 0, z, low), torch.where(excess > 0, high, z)
        step = z - excess / slope
        z = torch.where((step >= low) & (step <= high), step, (low + high) / 2)
    return z.exp()
