"""What people write without fastat: the textbook expressions in plain PyTorch, float32, box [0, 1].

:mod:`fastat.reference` is the oracle of the checks. These are the rivals of the timings: shorter, in single precision,
with numbers instead of one radius per sample, and with torch's own generator for the starts, so that ours is not
compared with an oracle's care.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastat.reference import attack_loss as attack_loss  # forward and autograd: already what people write


def linf_step(x_adv: Tensor, grad: Tensor, x: Tensor, step_size: float, eps: float) -> Tensor:
    """Madry et al. 2018, as in most attack code: 68 bytes per element."""
    moved = x_adv + step_size * grad.sign()
    return (x + (moved - x).clamp(-eps, eps)).clamp(0, 1)


def linf_step_in_place(x_adv: Tensor, grad: Tensor, x: Tensor, step_size: float, eps: float) -> Tensor:
    """The same with one temporary: 60 bytes per element."""
    return x_adv.add_(grad.sign(), alpha=step_size).sub_(x).clamp_(-eps, eps).add_(x).clamp_(0, 1)


def l2_step(x_adv: Tensor, grad: Tensor, x: Tensor, step_size: float, eps: float) -> Tensor:
    """Normalized gradient, scaled into the ball, clipped."""
    moved = x_adv + step_size * grad / (_norms(grad) + 1e-12)
    delta = moved - x
    return (x + delta * (eps / (_norms(delta) + 1e-12)).clamp(max=1)).clamp(0, 1)


def l1_step(x_adv: Tensor, grad: Tensor, x: Tensor, step_size: float, eps: float, sparsity: float = 0.05) -> Tensor:
    """The sparse step of l1-APGD (Croce and Hein 2021) and the sort-based projection onto ball and box."""
    g, adv, centre = grad.flatten(1), x_adv.flatten(1), x.flatten(1)
    size = g.abs() * torch.where(g > 0, adv < 1, adv > 0)
    threshold = size.topk(max(1, int(sparsity * size.shape[1])), dim=1).values[:, -1:]
    chosen = ((size >= threshold) & (size > 0)).to(g.dtype)
    moved = adv + step_size * chosen * g.sign() / chosen.sum(1, keepdim=True).clamp(min=1)
    return (centre + _l1_project(moved - centre, centre, eps)).clamp(0, 1).view_as(x)


def _l1_project(delta: Tensor, x: Tensor, eps: float) -> Tensor:
    """Soft thresholding within the box by the shift that leaves l1 norm eps, found by sorting its breakpoints."""
    size = delta.abs()
    room = torch.where(delta > 0, 1 - x, x)
    kept = torch.minimum(size, room).sum(1, keepdim=True)
    starts = (size - room).clamp(min=0)
    points, order = torch.cat([starts, size], dim=1).sort(dim=1)
    slope = torch.cat([-torch.ones_like(size), torch.ones_like(size)], dim=1).gather(1, order).cumsum(1)
    norm = torch.cat([kept, kept + (points.diff(dim=1) * slope[:, :-1]).cumsum(1)], dim=1)
    segment = ((norm > eps).sum(1, keepdim=True) - 1).clamp(min=0)
    excess = norm.gather(1, segment) - eps
    shift = points.gather(1, segment) + excess / -slope.gather(1, segment).clamp(max=-1)
    shift = torch.where(kept > eps, shift, 0)
    return delta.sign() * torch.minimum((size - shift).clamp(min=0), room)


def random_start(x: Tensor, eps: float, norm: str) -> Tensor:
    """Uniform in the ball, then the box; torch's generator."""
    if norm == "linf":
        return (x + torch.empty_like(x).uniform_(-eps, eps)).clamp(0, 1)
    n = math.prod(x.shape[1:])
    if norm == "l2":
        noise = torch.randn_like(x)
        radius = torch.rand(len(x), device=x.device).view(-1, *[1] * (x.dim() - 1)) ** (1 / n)
        return (x + eps * radius * noise / _norms(noise)).clamp(0, 1)
    size = torch.empty_like(x).exponential_()
    extra = torch.empty(len(x), device=x.device).exponential_()
    noise = torch.where(torch.rand_like(x) < 0.5, -size, size)
    return (x + eps * noise / (size.flatten(1).sum(1) + extra).view(-1, *[1] * (x.dim() - 1))).clamp(0, 1)


def loss_and_gradient(kind: str, reference: Tensor | None = None):
    """``(logits, y) -> (loss, gradient)`` by torch.func, which a compiler can take in one graph."""

    def loss(logits: Tensor, y: Tensor, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        if kind == "ce":
            each = F.cross_entropy(logits, y, reduction="none")
        elif kind == "kl":
            each = F.kl_div(logits.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)
        else:
            others = logits.scatter(1, y[:, None], -math.inf)
            each = others.amax(1) - logits.gather(1, y[:, None])[:, 0]
            if kind == "dlr":
                ranked = logits.topk(3, dim=1).values
                each = each / (ranked[:, 0] - ranked[:, 2] + 1e-12)
        return each.sum(), each

    def run(logits: Tensor, y: Tensor, reference: Tensor | None = None) -> tuple[Tensor, Tensor]:
        grad, each = torch.func.grad(loss, has_aux=True)(logits, y, reference)
        return each, grad

    return run


def pgd(model, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
    """The textbook loop: random start, cross-entropy, linf step."""
    x_adv = random_start(x, eps, "linf")
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y)
        (grad,) = torch.autograd.grad(loss, x_adv)
        x_adv = linf_step(x_adv.detach(), grad, x, step_size, eps)
    return x_adv


def _norms(t: Tensor) -> Tensor:
    """l2 norm per sample, in a shape that broadcasts."""
    return t.flatten(1).norm(dim=1).view(-1, *[1] * (t.dim() - 1))
