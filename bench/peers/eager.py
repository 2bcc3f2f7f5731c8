"""What people write without fastat: the textbook expressions in plain PyTorch, float32, box [0, 1].

:mod:`fastat.reference` is the oracle of the checks. These are the rivals of the timings: shorter, in single precision,
with numbers instead of one radius per sample, and with torch's own generator for the starts, so that ours is not
compared with an oracle's care.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SURE = 1e-5
"""The step of log c after which Newton's method stops: the next one would be below the rounding of float32."""


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
        elif kind == "bce":
            each = F.binary_cross_entropy_with_logits(logits, y, reduction="none").sum(1)
        elif kind == "log_odds":
            others = logits.scatter(1, y[:, None], -math.inf)
            each = others.logsumexp(1) - logits.gather(1, y[:, None])[:, 0]
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


def holistic_weights(losses: Tensor, alpha: float, r: float) -> Tensor:
    """HR weights of order "hd", exact: Newton's method on the one unknown of the Kullback-Leibler step.

    The unknown is c in ``weight = mass / (c + gap)``, the root of ``G(c) = r``; on ``log(exp G - 1)`` against ``log c``
    three or four steps do. Numbers that steer are read back, which costs nothing on a CPU.
    """
    mass, gap = _masses_and_gaps(losses, alpha)
    mean = mass.dot(gap).item()
    size = (mass.dot(gap * gap).item() - mean * mean) / math.expm1(r)
    log_c, target = math.log(2 * size / (mean + math.sqrt(mean * mean + 4 * size))), math.log(math.expm1(r))
    for _ in range(20):
        c = math.exp(log_c)
        shifted = gap + c
        share = mass / shifted
        sum1, sum2 = share.sum().item(), share.div_(shifted).sum().item()
        e = math.expm1(mass.dot(shifted.log_()).item() + math.log(sum1))
        step = (math.log(e) - target) / (c * (sum1 - sum2 / sum1) * (1 + 1 / e))
        log_c -= step
        if abs(step) < SURE:
            break
    weights = mass / (gap + math.exp(log_c))
    return weights.div_(weights.sum())


def holistic_weights_unread(losses: Tensor, alpha: float, r: float) -> Tensor:
    """The same in four steps with nothing read back: a GPU never waits, and compilers and CUDA graphs can take it."""
    mass, gap = _masses_and_gaps(losses, alpha)
    mean = mass.dot(gap)
    size = (mass.dot(gap * gap) - mean * mean) / math.expm1(r)
    log_c, target = (2 * size / (mean + (mean * mean + 4 * size).sqrt())).log(), math.log(math.expm1(r))
    for _ in range(4):
        c = log_c.exp()
        shifted = gap + c
        share = mass / shifted
        sum1, sum2 = share.sum(), (share / shifted).sum()
        e = (mass.dot(shifted.log()) + sum1.log()).expm1()
        log_c = log_c - (e.log() - target) / (c * (sum1 - sum2 / sum1) * (1 + 1 / e))
    weights = mass / (gap + log_c.exp())
    return weights / weights.sum()


def _masses_and_gaps(losses: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """1/N each, alpha of it moved from the smallest losses to the largest; and how far each loss is below that."""
    n, whole = len(losses), int(alpha * len(losses))
    top, worst = losses.max(0)
    smallest = losses.topk(whole + 1, largest=False).indices
    mass = losses.new_full((n,), 1 / n).index_fill_(0, smallest, 0.0)
    mass.index_fill_(0, smallest[whole:], (whole + 1 - alpha * n) / n)
    mass.index_add_(0, worst.view(1), losses.new_full((1,), alpha))
    return mass, (top - losses) / (top - losses.amin())


def holistic_weights_hr(losses: Tensor, alpha: float, r: float) -> Tensor:
    """HR weights of order "hr": sorted once, then the secant method on log c; in float64, as small shares need.

    For a given c the gaps are cut where the share of the mass beyond the cut is alpha: cumulated sums say where.
    """
    ordered, order = losses.double().sort(descending=True)
    n, target = len(losses), math.log(math.expm1(r))
    gap = (ordered[0] - ordered) / (ordered[0] - ordered[-1])
    beyond = torch.arange(n - 1, -1, -1, dtype=gap.dtype, device=gap.device)  # how many losses are smaller

    def at(log_c: float) -> tuple[float, int, Tensor]:
        c = math.exp(log_c)
        inverse = 1 / (gap + c)
        within, cut_off = inverse.cumsum(0), beyond * inverse
        tie = int((cut_off / (cut_off + within) > alpha).sum())  # the first one whose share beyond is at most alpha
        count, kept = n - tie, within[tie - 1].item() if tie else 0.0
        cut = count * (1 - alpha) / (alpha * kept) - c if kept else 0.0
        shifted = gap.clamp(max=min(max(cut, 0.0), gap[tie].item())) + c
        g = shifted.log().mean().item() + math.log(shifted.reciprocal().mean().item())
        return math.log(math.expm1(max(g, 1e-300))) - target, tie, shifted

    before = math.log(math.sqrt(gap.var(correction=0).item() / math.expm1(r)))
    excess_before = at(before)[0]
    log_c = before + excess_before
    for _ in range(30):
        excess, tie, shifted = at(log_c)
        step = excess * (log_c - before) / (excess - excess_before) if excess != excess_before else 0.0
        before, excess_before, log_c = log_c, excess, log_c - step
        if abs(step) < 1e-9:
            break
    p = shifted.reciprocal_().div_(shifted.sum())
    smaller, tied = p[tie + 1 :].sum().item(), p[tie].item()
    part = min(max((alpha - smaller) / tied, 0.0), 1.0)
    p[tie + 1 :] = 0
    p[tie] *= 1 - part
    p[0] += smaller + part * tied
    return torch.empty_like(losses).scatter_(0, order, p.to(losses.dtype))


def holistic_cross_entropy(logits: Tensor, y: Tensor, alpha: float, r: float) -> Tensor:
    """The HR loss of a batch, differentiable; the weights are constants."""
    losses = F.cross_entropy(logits, y, reduction="none")
    weights = holistic_weights_unread if losses.is_cuda or torch.compiler.is_compiling() else holistic_weights
    return weights(losses.detach(), alpha, r).dot(losses)


def benign_loss(logits: Tensor, features: Tensor, y: Tensor, gamma: float, beta: float, tau: float) -> Tensor:
    """The BAT loss: where the prediction is wrong, the largest wrong probability is the largest of all."""
    log_p = logits.log_softmax(1)
    confidence, predicted = log_p.detach().max(1)
    weights = torch.where(predicted == y, 1.0, torch.exp(-gamma * confidence.exp()))
    fit = weights.dot(F.nll_loss(log_p, y, reduction="none")) / weights.sum()
    return fit + beta * discrimination_loss(features, y, tau)


def discrimination_loss(features: Tensor, y: Tensor, tau: float) -> Tensor:
    """The supervised contrastive loss (Khosla et al. 2020) on the whole matrix of similarities."""
    h = F.normalize(features, dim=1)
    similarity = (h @ h.T / tau).fill_diagonal_(-math.inf)
    positive = (y[:, None] == y[None, :]).fill_diagonal_(False)
    count = positive.sum(1)
    mean = torch.where(positive, similarity, 0.0).sum(1) / count.clamp(min=1)
    each = torch.where(count > 0, similarity.logsumexp(1) - mean, 0.0)
    return each.sum() / (count > 0).sum().clamp(min=1)


def _norms(t: Tensor) -> Tensor:
    """l2 norm per sample, in a shape that broadcasts."""
    return t.flatten(1).norm(dim=1).view(-1, *[1] * (t.dim() - 1))
