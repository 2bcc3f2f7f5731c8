"""GradAlign (Andriushchenko and Flammarion, "Understanding and improving fast adversarial training", NeurIPS 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastat.kernels import ops
from fastat.kernels.arguments import check_data, check_logits, class_labels, integer_labels, widened
from fastat.kernels.sizes import check_size
from fastat.models import Model, directions, logits_of, run_eagerly


def gradient_misalignment(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    lower: float | None = 0.0,
    upper: float | None = 1.0,
) -> Tensor:
    """``mean [1 - cos(g(x), g(x + noise))]``, g the gradient of the cross-entropy to the input (equation 5).

    The noise is uniform in the linf ball of radius ``eps``. A network on whose inputs it is small is nearly linear in
    that ball, so that a single step is a strong attack and single-step training does not collapse; it is added to the
    training loss with a factor (the authors' 0.2 for eps 8/255 on CIFAR-10). As in the authors' code the gradient at x
    is a constant; backward goes through that at x + noise and costs a second derivative.

    Args:
        model: maps inputs ``[B, ...]`` to logits ``[B, C]``, twice differentiable.
        x: inputs ``[B, ...]``.
        y: integer labels ``[B]``.
        eps: radius >= 0.
        seed, sample_ids, lower, upper: of the noise, see :func:`fastat.random_start`.

    Returns:
        0-d, in [0, 2], with a gradient to the model's parameters. A sample whose gradient vanishes counts as 1.

    Raises:
        TypeError, ValueError: as for :func:`fastat.random_start`.
    """
    check_data(x, "x")
    labels = integer_labels(y, x, "y")
    check_size(eps, "eps", x)
    noisy = ops.random_start(x, eps, "linf", seed, sample_ids, lower, upper)
    with torch.enable_grad(), run_eagerly(model):
        at_x = _input_gradient(model, x.detach().clone(), labels, differentiable=False)
        at_noisy = _input_gradient(model, noisy, labels, differentiable=True)
    return (1 - F.cosine_similarity(at_x.flatten(1), at_noisy.flatten(1), dim=1)).mean()


def _input_gradient(model: Model, x: Tensor, y: Tensor, differentiable: bool) -> Tensor:
    leaf = x.requires_grad_()
    logits = logits_of(model(leaf))
    check_logits(logits)
    labels = class_labels(y, logits, "y")
    loss = F.cross_entropy(widened(logits), labels, reduction="sum")  # of which each sample's gradient is its own
    return directions(loss, [leaf], create_graph=differentiable)[0]
