"""How much the loss bends along the step of FGSM."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastat.evaluation import eval_mode


def curvature(model: nn.Module, x: Tensor, y: Tensor, eps: float, *, batch_size: int = 250) -> Tensor:
    """|| g(x + eps sign g(x)) - g(x) ||_2 for each image, g the gradient of its cross-entropy, in eval mode.

    Zero where the loss is linear along the step of FGSM, which is then the best of all steps; it leaps up where
    single-step training collapses. No box: the step is taken whole.

    Args:
        model: takes images, returns logits [B, K]; left as found.
        x: images [B, C, H, W], on the model's device.
        y: labels, int64 [B].
        eps: length of the step, in the unit of x.
        batch_size: images at a time.

    Returns:
        float32 [B], on the device of x.

    Raises:
        ValueError: eps is negative or not finite, or lengths disagree.
    """
    if not 0 <= eps < float("inf"):
        raise ValueError(f"eps must be a finite number of at least 0, got {eps}")
    if y.shape != x.shape[:1]:
        raise ValueError(f"needs a label for each of {len(x)} images, got {tuple(y.shape)}")
    found = []
    with eval_mode(model):
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            here = _gradient(model, images, labels)
            there = _gradient(model, images + eps * here.sign(), labels)
            found.append((there - here).flatten(1).norm(dim=1))
    return torch.cat(found)


def _gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        inputs = x.detach().float().requires_grad_()
        loss = F.cross_entropy(model(inputs).float(), y, reduction="sum")
        return torch.autograd.grad(loss, inputs)[0]
