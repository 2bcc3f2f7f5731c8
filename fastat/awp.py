"""Adversarial weight perturbation, AWP (Wu, Xia, Wang, "Adversarial weight perturbation helps robust generalization",
NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def perturbed_weights(model: nn.Module, loss: Callable[[], Tensor], gamma: float) -> Iterator[None]:
    """Within the block every weight w stands at ``w + gamma ||w|| g / ||g||``, g the gradient of the loss at w.

    One ascent step in weight space, layer by layer, on weights of two and more dimensions (biases and batch norm stay).
    The gradient of the perturbed loss is taken and the optimizer steps within the block; at its end the perturbation is
    taken off again, as in the authors' code. Buffers are left as found by the gradient's own forward pass.

    Args:
        model: its parameters are moved in place.
        loss: computes the loss, 0-d with gradient.
        gamma: size of the perturbation relative to the weights; 0 does nothing.
    """
    if gamma == 0:
        yield
        return
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
        steps = [_step(w, g, gamma) for w, g in zip(weights, gradients, strict=True)]
        for weight, step in zip(weights, steps, strict=True):
            weight.add_(step)
    torch.clear_autocast_cache()  # it may hold the weights as they were
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, step in zip(weights, steps, strict=True):
                weight.sub_(step)


def _step(weight: Tensor, gradient: Tensor | None, gamma: float) -> Tensor:
    if gradient is None:
        return torch.zeros_like(weight)
    return gamma * weight.norm() * gradient / (gradient.norm() + 1e-12)
