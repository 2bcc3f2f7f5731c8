"""Adversarial weight perturbation, AWP (Wu, Xia, Wang, "Adversarial weight perturbation helps robust generalization",
NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastat.models import buffers_put_back
from fastat.support.distributed import Group, mean_


@contextmanager
def perturbed_weights(
    model: nn.Module, loss: Callable[[], Tensor], gamma: float, group: Group | None = None
) -> Iterator[None]:
    """Within the block every weight w stands at ``w + gamma ||w|| g / ||g||``, g the gradient of the loss at w.

    One ascent step in weight space, layer by layer, on weights of two and more dimensions (biases and batch norm stay).
    The gradient of the perturbed loss is taken and the optimizer steps within the block; at its end the perturbation is
    taken off again, as in the authors' code. Buffers are left as found by the gradient's own forward pass.

    Args:
        model: its parameters are moved in place.
        loss: computes the loss, 0-d with gradient.
        gamma: size of the perturbation relative to the weights; 0 does nothing.
        group: None, or the process group over which the batch is spread: the gradient is then the mean of those of its
            processes.
    """
    if gamma == 0:
        yield
        return
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    with buffers_put_back(model):
        gradients = torch.autograd.grad(loss(), weights, materialize_grads=True)
    mean_(gradients, group)
    with torch.no_grad():
        steps = [_step(w, g, gamma) for w, g in zip(weights, gradients, strict=True)]
        old_weights = [weight.clone() for weight in weights]
        for weight, step in zip(weights, steps, strict=True):
            weight.add_(step)
    torch.clear_autocast_cache()  # it may hold the weights as they were
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old, step in zip(weights, old_weights, steps, strict=True):
                weight.copy_(old + (weight - (old + step)))  # exactly the old one where the optimizer did nothing


def _step(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    step = gamma * weight.norm() * gradient / (gradient.norm() + 1e-12)
    return step.nan_to_num(0, 0, 0)  # a weight that it made NaN would stay NaN
