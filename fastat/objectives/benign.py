"""Benign adversarial training, BAT (Xu et al., "Towards the Memorization Effect of Neural Networks in Adversarial
Training").

Samples that the model confidently gets wrong under attack count less, and the features of a class are drawn together:

    loss = sum_i w_i l_i / sum_i w_i + beta DL

with l_i the cross-entropy of the adversarial example. The published text states the idea, not every constant: ``gamma``
(default 1), ``beta`` (0.2) and ``tau`` (0.1) are parameters, and the mean over the positives of DL may stand outside
the logarithm or inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor

from fastat.kernels import objective_ops as ops
from fastat.kernels.arguments import check_data, check_logits, check_number, class_labels, compute_dtype, integer_labels
from fastat.support.distributed import Group, first_of, gather_parts, gathered, sizes_of

Positives = Literal["outside", "inside"]
POSITIVES: tuple[str, ...] = get_args(Positives)

_LEAST_TAU = 1e-30

_TILE = 1 << 24
"""Similarities computed at a time: 64 MiB of float32."""


def benign_weights(logits: Tensor, y: Tensor, gamma: float = 1.0) -> Tensor:
    """``exp(-gamma max_{t != y} p_t)`` where the model predicts another class than ``y``, else 1.

    p is the softmax of the logits; of equal logits the first class is the prediction.

    Args:
        logits: ``[B, C]``, any float dtype; of the adversarial examples.
        y: integer labels ``[B]`` in [0, C).
        gamma: >= 0; at 0 all weights are 1. The exponent ends at -80: the sum of a batch's weights is never 0.

    Returns:
        Weights ``[B]`` in (0, 1], float32 (float64 for float64 logits); constants for autograd. On CUDA,
        where labels are not looked at, one out of range gets the weight NaN.

    Raises:
        TypeError, ValueError: on wrong dtypes, shapes, devices, labels or numbers.
    """
    labels, gamma = _checked_labels(logits, y, gamma)
    return ops.benign_cross_entropy(logits.detach().contiguous(), labels, gamma)[2]


def discrimination_loss(
    features: Tensor,
    y: Tensor,
    tau: float = 0.1,
    positives: Positives = "outside",
    *,
    group: Group | None = None,
) -> Tensor:
    """Draws the features of a class together and those of different classes apart.

    With h_i the l2-normalized features (normalized here, with gradient), the mean over the samples i that have a
    positive (another sample of their class) of

    - "outside": the mean over positives j of ``-log [exp(h_i.h_j / tau) / sum_{k != i} exp(h_i.h_k / tau)]``, the
      supervised contrastive loss of Khosla et al. 2020;
    - "inside": ``-log`` of the mean over positives j of that fraction.

    The B x B similarities are made a tile at a time, forward and backward: beside a few tensors of the features' size
    that is 64 MiB (float64: 128), whatever B. Features of all zeros have no direction: similarity 0, no gradient.

    Args:
        features: ``[B, D]``, any float dtype (half ones are worked on in float32).
        y: integer labels ``[B]`` of at most 32 bits.
        tau: temperature, at least 1e-30.
        positives: "outside" or "inside".
        group: None for this process alone, or a process group of torch.distributed over which the batch is spread: the
            features of all its processes are compared. Every process returns the same loss; gradients are multiplied by
            the number of processes, since DistributedDataParallel divides the sum by it.

    Returns:
        0-d, float32 (float64 for float64 features); 0 if no sample has a positive.

    Raises:
        TypeError, ValueError, RuntimeError: on wrong dtypes, shapes, devices or numbers; a second derivative.
    """
    check_data(features, "features")
    if features.dim() != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be [B, D] with D >= 1, got {list(features.shape)}")
    if positives not in POSITIVES:
        raise ValueError(f"positives must be 'outside' or 'inside', got {positives!r}")
    labels = integer_labels(y, features, "y")
    if not labels.is_cuda and not torch.compiler.is_compiling() and (labels.int() != labels).any():
        raise ValueError(f"y must fit in 32 bits, got labels from {int(labels.min())} to {int(labels.max())}")
    tau = check_number(tau, "tau", above=True)
    if tau < _LEAST_TAU:
        raise ValueError(f"tau must be at least {_LEAST_TAU}, got {tau}: similarities are divided by it")
    with torch.autocast(features.device.type, enabled=False):
        wide = features.to(compute_dtype(features))
        return _Discrimination.apply(_normalized(wide), labels, 1.0 / tau, positives == "inside", group)


def benign_loss(
    logits: Tensor,
    features: Tensor,
    y: Tensor,
    gamma: float = 1.0,
    beta: float = 0.2,
    tau: float = 0.1,
    positives: Positives = "outside",
    *,
    losses: Tensor | None = None,
    group: Group | None = None,
) -> Tensor:
    """The BAT loss: cross-entropies weighted by :func:`benign_weights`, plus ``beta`` times the discrimination loss.

    Weights, cross-entropies and their gradient come from one pass over the logits, unless other losses are given. For
    ``beta = 0`` the features are not looked at.

    Args:
        logits: ``[B, C]``, any float dtype; of the adversarial examples.
        features: ``[B, D]``, penultimate features of the adversarial examples.
        y: integer labels ``[B]`` in [0, C).
        gamma: see :func:`benign_weights`.
        beta: weight of the discrimination loss, >= 0.
        losses: ``[B]``, to weight in place of the cross-entropies, those of TRADES for example.
        tau, positives, group: see :func:`discrimination_loss`; the sums of the weighted mean go over the group as well.

    Returns:
        0-d, float32 (float64 for float64 logits); 0 for an empty batch.

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`benign_weights` and :func:`discrimination_loss`.
    """
    beta = check_number(beta, "beta")
    labels, gamma = _checked_labels(logits, y, gamma)
    if losses is None:
        fit = _WeightedCrossEntropy.apply(logits, labels, gamma, group)
    else:
        fit = _weighted_mean(losses, benign_weights(logits, y, gamma), group)
    if beta == 0:
        return fit
    return fit + beta * discrimination_loss(features, y, tau, positives, group=group)


class _Discrimination(torch.autograd.Function):
    """Of normalized features. The loss's gradient is A h / (tau M), A symmetric (csrc/core/benign.h), M the number of
    samples with a positive: rows of A are made from products that are computed again, so nothing of size B x B is kept.
    """

    @staticmethod
    def forward(ctx: Any, own: Tensor, y: Tensor, inverse_tau: float, inside: bool, group: Group | None) -> Tensor:
        sizes = [len(own)] if group is None else sizes_of(own, group)
        first = 0 if group is None else first_of(sizes, group)
        h, labels = own, y.to(torch.int64 if own.dtype == torch.float64 else torch.int32)
        if group is not None:
            h, labels = gather_parts(own, sizes, group), gather_parts(labels, sizes, group)
        sums = own.new_empty(4, len(own))
        for start, products in _tiles(own, h):
            ops.contrast_rows_(sums, products, labels, start, first + start, inverse_tau, inside)
        total = torch.stack([sums[3].sum(), sums[2].count_nonzero()])
        if group is not None:
            dist.all_reduce(total, group=group)
            sums = gather_parts(sums.T.contiguous(), sizes, group).T.contiguous()
        count = total[1].clamp(min=1)
        ctx.save_for_backward(h, labels, sums, count)
        ctx.first, ctx.size, ctx.processes = first, len(own), len(sizes)
        ctx.inverse_tau, ctx.inside = inverse_tau, inside
        return total[0] / count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ops.refuse_second_derivatives()
        h, labels, sums, count = ctx.saved_tensors
        scale = grads[0] * (ctx.inverse_tau * ctx.processes) / count
        own = h[ctx.first : ctx.first + ctx.size]
        grad = torch.empty_like(own)
        with torch.autocast(h.device.type, enabled=False):
            for start, products in _tiles(own, h):
                ops.contrast_gradient_(products, labels, sums, scale, ctx.first + start, ctx.inverse_tau, ctx.inside)
                torch.mm(products, h, out=grad[start : start + len(products)])
        return grad, None, None, None, None


class _WeightedCrossEntropy(torch.autograd.Function):
    """sum w l / sum w, w the BAT weights as constants. Backward is one launch."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, gamma: float, group: Group | None) -> Tensor:
        losses, grad, weights = ops.benign_cross_entropy(logits.detach().contiguous(), y, gamma)
        total = torch.stack([torch.dot(weights, losses), weights.sum()])
        ctx.processes = 1
        if group is not None:
            dist.all_reduce(total, group=group)
            ctx.processes = group.size()
        whole = _of_weights(total[1])
        ctx.save_for_backward(grad, weights, whole)
        return total[0] / whole

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ops.refuse_second_derivatives()
        grad, weights, whole = ctx.saved_tensors
        return ops.scale_rows(grad, weights, ctx.processes * grads[0] / whole), None, None, None


def _weighted_mean(losses: Tensor, weights: Tensor, group: Group | None) -> Tensor:
    check_data(losses, "losses")
    if losses.shape != weights.shape:
        raise ValueError(f"losses must have shape {list(weights.shape)}, got {list(losses.shape)}")
    if group is not None:
        losses, weights = gathered(losses, group), gathered(weights, group)
    return (weights * losses).sum() / _of_weights(weights.sum())


def _of_weights(total: Tensor) -> Tensor:
    """A sum of weights to divide by: none of a batch is 0, that of no samples must not be."""
    return total.clamp(min=torch.finfo(torch.float32).tiny)


def _normalized(features: Tensor) -> Tensor:
    """Rows divided by their l2 norm; a row of zeros stays, and has no gradient."""
    norm = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / torch.where(norm > 0, norm, torch.inf)


def _tiles(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """``(first row, products of some rows with all columns)``, in a buffer of a bounded size that is used again."""
    height = max(1, min(len(rows), _TILE // max(1, len(columns))))
    buffer = rows.new_empty(height, len(columns))
    for start in range(0, len(rows), height):
        part = rows[start : start + height]
        yield start, torch.mm(part, columns.T, out=buffer[: len(part)])


def _checked_labels(logits: Tensor, y: Tensor, gamma: float) -> tuple[Tensor, float]:
    """Labels as the op takes them, and gamma."""
    check_logits(logits)
    return class_labels(y, logits, "y"), check_number(gamma, "gamma")
