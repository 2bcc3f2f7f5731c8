"""The ops in plain PyTorch: the oracle of the tests and the baseline of the benchmarks.

Same names, arguments and results as in ``fastat.ops``, written for clarity and computed in the precision of their
arguments; on float64 copies of the data they are the exact answer that the kernels are compared with. Nothing here
calls the compiled code.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linf_step_(x_adv, grad, x, step_size, eps, lower=0.0, upper=1.0):  # type: ignore[no-untyped-def]
    """See :func:`fastat.linf_step_`."""
    lower, upper = _inner(lower, upper, x)
    adv, g, x0 = _compute(x_adv), _compute(grad), _compute(x)
    step, radius = _column(step_size, adv), _column(eps, adv)
    moved = adv + step * g.sign()
    point = _clamp(x0 + torch.clamp(moved - x0, -radius, radius), lower, upper)
    return x_adv.copy_(_store(point, x0, radius, lower, upper, x_adv.dtype))


def l2_step_(x_adv, grad, x, step_size, eps, lower=0.0, upper=1.0):  # type: ignore[no-untyped-def]
    """See :func:`fastat.l2_step_`."""
    lower, upper = _inner(lower, upper, x)
    adv, g, x0 = _compute(x_adv), _compute(grad), _compute(x)
    infinite = g.isinf()
    some = infinite.flatten(1).any(1).view(-1, *[1] * (g.dim() - 1))
    g = torch.where(some, infinite * g.sign(), g).nan_to_num(0.0)
    g = g / _norm(g, math.inf).clamp(min=1e-300).to(g.dtype) if g.dtype == torch.float64 else g  # squares stay in range
    norm = _norm(g, 2)
    direction = torch.where(norm > 0, g / norm, 0.0)
    moved = adv + _column(step_size, adv) * direction
    return x_adv.copy_(_l2_project(moved, x0, eps, lower, upper, x_adv.dtype))


def l1_step_(x_adv, grad, x, step_size, eps, lower=0.0, upper=1.0, sparsity=0.05):  # type: ignore[no-untyped-def]
    """See :func:`fastat.l1_step_`."""
    lower, upper = _inner(lower, upper, x)
    adv, g, x0 = _compute(x_adv), _compute(grad), _compute(x)
    if adv.numel() == 0:
        return x_adv
    room = torch.where(g > 0, adv < _end(upper, math.inf, adv), adv > _end(lower, -math.inf, adv))
    size = torch.where(room & (g.abs() > 0), g.abs(), 0.0).flatten(1)
    k = max(1, math.floor(sparsity * size.shape[1]))
    threshold = size.topk(k, dim=1).values[:, -1:]
    chosen = (size >= threshold) & (size > 0)
    share = 1.0 / chosen.sum(1, keepdim=True).clamp(min=1).to(g.dtype)
    direction = (chosen * share).view_as(g) * g.nan_to_num(0.0).sign()
    moved = adv + _column(step_size, adv) * direction
    return x_adv.copy_(_l1_project(moved, x0, eps, lower, upper, x_adv.dtype))


def project_(x_adv, x, eps, norm, lower=0.0, upper=1.0):  # type: ignore[no-untyped-def]
    """See :func:`fastat.project_`."""
    lower, upper = _inner(lower, upper, x)
    adv, x0 = _compute(x_adv), _compute(x)
    if norm == "linf":
        radius = _column(eps, adv)
        point = _clamp(x0 + torch.clamp(adv - x0, -radius, radius), lower, upper)
        return x_adv.copy_(_store(point, x0, radius, lower, upper, x_adv.dtype))
    project = {"l2": _l2_project, "l1": _l1_project}[norm]
    return x_adv.copy_(project(adv, x0, eps, lower, upper, x_adv.dtype))


def random_start(x, eps, norm, seed=None, sample_ids=None, lower=0.0, upper=1.0, *, draw=0):  # type: ignore[no-untyped-def]
    """See :func:`fastat.random_start`; ``seed`` must be an int."""
    lower, upper = _inner(lower, upper, x)
    x0 = _compute(x)
    batch, n = x.shape[0], math.prod(x.shape[1:])
    ids = torch.arange(batch, device=x.device) if sample_ids is None else sample_ids.to(torch.int64)
    blocks = torch.arange((n + 3) // 4, device=x.device)
    words = philox(seed, ids[:, None], draw, blocks[None, :])  # [B, blocks, 4]
    bits = words >> 8
    if norm == "linf":
        noise = (bits - 2**23).float() / 2**23
        scale = _column(eps, x0)
    else:
        first = (bits + 1).double() / 2**24
        extra = (philox(seed, ids[:, None], draw, torch.full_like(blocks[:1], 2**32 - 1))[:, :, 0] >> 8) + 1
        exponential = -(extra.double() / 2**24).log()
        if norm == "l2":
            radius = (-2.0 * first[..., 0::2].log()).sqrt()
            angle = 2 * math.pi * bits[..., 1::2].double() / 2**24
            noise = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=-1)
        else:
            noise = -first.log() * (1 - 2 * (words & 1))
        flat = noise.reshape(batch, -1)[:, :n]
        low, high = (torch.as_tensor(end).expand_as(x0) for end in _box(x0, lower, upper))
        flat = flat * (low < high).flatten(1)  # what the box pins is no dimension of the ball
        exponential = exponential[:, 0]
        l2 = norm == "l2"
        total = (flat.square().sum(1) + 2 * exponential).sqrt() if l2 else flat.abs().sum(1) + exponential
        scale = _column(eps, x0.double()) / total.view(-1, *[1] * (x.dim() - 1))
    noise = noise.reshape(batch, -1)[:, :n].reshape(x.shape)
    point = _clamp(x0 + (noise.to(x0.dtype) * scale.to(x0.dtype)), lower, upper)
    radius = _column(eps, x0) if norm == "linf" else (point - x0).abs()
    return torch.empty_like(x).copy_(_store(point, x0, radius, lower, upper, x.dtype))


def attack_loss(logits, y, kind="ce", targets=None, reference=None):  # type: ignore[no-untyped-def]
    """See :func:`fastat.attack_loss`; the gradient comes from autograd."""
    with torch.enable_grad():
        z = _compute(logits).detach().requires_grad_()
        if kind == "log_odds":
            return _log_odds(z.detach(), y, logits.dtype)
        loss = _LOSSES[kind](z, y, targets, None if reference is None else _compute(reference).detach())
        (grad,) = torch.autograd.grad(loss.sum(), z)
    return loss.detach(), grad.to(logits.dtype)


def best_(best_x: Tensor, best_loss: Tensor, x_adv: Tensor, loss: Tensor) -> None:
    """See :func:`fastat.best_`."""
    better = loss > best_loss
    best_x[better] = x_adv[better]
    best_loss[better] = loss[better]


def holistic_weights(losses, alpha, r, order="hd"):  # type: ignore[no-untyped-def]
    """See :func:`fastat.holistic_weights`: float64, with nested bisections where the kernel does better."""
    values = losses.double()
    n, top = len(values), values.max()
    uniform, worst = torch.full_like(values, 1 / n), (values == top).double()
    if values.min() == top:
        weights = uniform
    elif order == "hd" or r == 0:
        mass = _trim(values, alpha * n) / n
        weights = _worst_within_kl(values, mass + alpha * worst / worst.sum(), r)
    else:
        below, above = values.min(), top
        while below < (threshold := (below + above) / 2) < above:  # mass on losses below it is given away
            p = _worst_within_kl(values.clamp(min=threshold), uniform, r)
            below, above = (threshold, above) if p[values < threshold].sum() <= alpha else (below, threshold)
        p = _worst_within_kl(values.clamp(min=below), uniform, r)
        near = 1e-13 * (top - values.min())
        given, tied = p * (values < below - near), p * ((values - below).abs() <= near)
        part = ((alpha - given.sum()) / tied.sum().clamp(min=1e-300)).clamp(0, 1)
        given = torch.where(values >= top, 0, given + part * tied)
        weights = p - given + given.sum() * worst / worst.sum()
    return weights.to(losses.dtype)


def holistic_loss(losses, alpha, r, order="hd"):  # type: ignore[no-untyped-def]
    """See :func:`fastat.holistic_loss`."""
    return (holistic_weights(losses.detach(), alpha, r, order) * losses).sum()


def holistic_cross_entropy(logits, y, alpha, r, order="hd"):  # type: ignore[no-untyped-def]
    """See :func:`fastat.holistic_cross_entropy`."""
    return holistic_loss(F.cross_entropy(_compute(logits), y, reduction="none"), alpha, r, order)


def benign_weights(logits, y, gamma=1.0):  # type: ignore[no-untyped-def]
    """See :func:`fastat.benign_weights`."""
    probabilities = _compute(logits.detach()).softmax(1)
    largest_other = probabilities.scatter(1, y[:, None], 0).amax(1)
    return torch.where(logits.argmax(1) == y, 1.0, torch.exp((-gamma * largest_other).clamp(min=-80)))


def discrimination_loss(features, y, tau=0.1, positives="outside"):  # type: ignore[no-untyped-def]
    """See :func:`fastat.discrimination_loss`."""
    norm = torch.linalg.vector_norm(_compute(features), dim=1, keepdim=True)
    h = _compute(features) / torch.where(norm > 0, norm, math.inf)
    similarity = (h @ h.T / tau).fill_diagonal_(-math.inf)
    same = (y[:, None] == y[None, :]).fill_diagonal_(False)
    count = same.sum(1)
    log_share = similarity - similarity.logsumexp(1, keepdim=True)
    if positives == "outside":
        each = -torch.where(same, log_share, 0).sum(1) / count.clamp(min=1)
    else:
        each = count.clamp(min=1).to(h.dtype).log() - torch.where(same, log_share, -1e30).logsumexp(1)
    return each[count > 0].sum() / (count > 0).sum().clamp(min=1)


def benign_loss(logits, features, y, gamma=1.0, beta=0.2, tau=0.1, positives="outside"):  # type: ignore[no-untyped-def]
    """See :func:`fastat.benign_loss`."""
    weights = benign_weights(logits, y, gamma)
    fit = (weights * F.cross_entropy(_compute(logits), y, reduction="none")).sum() / weights.sum().clamp(min=1e-37)
    return fit + beta * discrimination_loss(features, y, tau, positives)


def philox(seed: int, sample_ids: Tensor, draw: int, blocks: Tensor) -> Tensor:
    """Philox4x32-10 words, int64 in [0, 2**32), of shape broadcast(sample_ids, blocks) + [4] (Salmon et al. 2011)."""
    mask = 0xFFFFFFFF
    sample_ids, blocks = torch.broadcast_tensors(sample_ids, blocks)
    c = [blocks & mask, sample_ids & mask, (sample_ids >> 32) & mask, torch.full_like(blocks, draw)]
    key = [seed & mask, (seed >> 32) & mask]
    for _ in range(10):
        high0, low0 = _product_words(0xD2511F53, c[0])
        high1, low1 = _product_words(0xCD9E8D57, c[2])
        c = [high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return torch.stack(c, dim=-1)


def _product_words(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a 32-bit product, in int64 arithmetic that does not overflow."""
    low = a * (b & 0xFFFF)
    middle = a * (b >> 16) + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def _ce(z: Tensor, y: Tensor, *_: object) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def _margin(z: Tensor, y: Tensor, *_: object) -> Tensor:
    others = z.scatter(1, y[:, None], -math.inf)
    return _pick(z, others.argmax(1)) - _pick(z, y)


def _dlr(z: Tensor, y: Tensor, *_: object) -> Tensor:
    ranked = z.sort(dim=1, descending=True, stable=True).values
    return _margin(z, y) / (ranked[:, 0] - ranked[:, 2] + 1e-12)


def _dlr_targeted(z: Tensor, y: Tensor, targets: Tensor, *_: object) -> Tensor:
    ranked = z.sort(dim=1, descending=True, stable=True).values
    return (_pick(z, targets) - _pick(z, y)) / (ranked[:, 0] - 0.5 * (ranked[:, 2] + ranked[:, 3]) + 1e-12)


def _kl(z: Tensor, y: object, targets: object, reference: Tensor) -> Tensor:
    return F.kl_div(z.log_softmax(1), reference.log_softmax(1), reduction="none", log_target=True).sum(1)


def _bce(z: Tensor, y: Tensor, *_: object) -> Tensor:
    return F.binary_cross_entropy_with_logits(z, y.to(z.dtype), reduction="none").sum(1)


_LOSSES = {"ce": _ce, "margin": _margin, "dlr": _dlr, "dlr_targeted": _dlr_targeted, "kl": _kl, "bce": _bce}


def _log_odds(z: Tensor, y: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Loss and gradient, which at infinite logits autograd does not find."""
    own, nan = _pick(z, y), z.isnan().any(1)
    at_label = F.one_hot(y, z.shape[1]).bool()
    others = z.masked_fill(at_label, -math.inf)
    top = others.nan_to_num(-math.inf, posinf=math.inf, neginf=-math.inf).amax(1, keepdim=True)
    weight = torch.where(others == top, 1.0, torch.exp(others - top)).masked_fill(at_label, 0.0)
    total = weight.sum(1)
    loss = total.log() + torch.where(top[:, 0] == own, 0.0, top[:, 0] - own)
    grad = torch.where(at_label, -1.0 * (z.shape[1] > 1), weight / total[:, None])
    return loss.masked_fill(nan, math.nan), grad.masked_fill(nan[:, None], math.nan).to(dtype)


def _pick(z: Tensor, index: Tensor) -> Tensor:
    return z.gather(1, index[:, None])[:, 0]


def _compute(t: Tensor) -> Tensor:
    return t.float() if t.dtype in (torch.float16, torch.bfloat16) else t


def _end(value: float | Tensor | None, default: float, like: Tensor) -> float | Tensor:
    """One end of the box."""
    if isinstance(value, Tensor):
        return _column(value, like)
    return default if value is None else value


def _clamp(point: Tensor, lower: float | Tensor | None, upper: float | Tensor | None) -> Tensor:
    if isinstance(lower, Tensor) or isinstance(upper, Tensor):
        low, high = (torch.as_tensor(end, dtype=point.dtype) for end in _box(point, lower, upper))
        return torch.minimum(torch.maximum(point, low.to(point.device)), high.to(point.device))
    return point.clamp(*_box(point, lower, upper))


def _box(like: Tensor, lower: float | Tensor | None, upper: float | Tensor | None) -> tuple[Any, Any]:
    return _end(lower, -math.inf, like), _end(upper, math.inf, like)


def _column(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, one per sample or more, in a shape that broadcasts over the samples."""
    value = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if value.dim() == 1 and len(value) == len(like):
        return value.view(-1, *[1] * (like.dim() - 1))
    return value.expand(*[1] * like.dim()) if value.dim() == 0 else value


def _norm(t: Tensor, p: int) -> Tensor:
    """Norm per sample in float64, in a shape that broadcasts."""
    return t.double().flatten(1).norm(p, dim=1).view(-1, *[1] * (t.dim() - 1))


def _l2_project(
    moved: Tensor,
    x: Tensor,
    eps: float | Tensor,
    lower: float | Tensor | None,
    upper: float | Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    delta = moved - x
    norm = _norm(delta, 2)
    radius = _column(eps, x).double()
    point = _clamp(torch.where(norm > radius, x + delta * (radius / norm), moved).to(x.dtype), lower, upper)
    return _store(point, x, (point - x).abs(), lower, upper, dtype)


def _l1_project(
    moved: Tensor,
    x: Tensor,
    eps: float | Tensor,
    lower: float | Tensor | None,
    upper: float | Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Projection onto ball and box: the shift of every sample is bisected, first among all float64 numbers, then for
    what is to be taken from the one found or added to the one before."""
    if x.numel() == 0:
        return moved.to(dtype)
    low, high = (torch.as_tensor(end, dtype=x.dtype).expand_as(x) for end in _box(x, lower, upper))
    up = (x < low) | ((x <= high) & (moved > x))
    far, centre, end, near = (
        torch.where(up, one, -other).flatten(1).double()
        for one, other in ((moved, moved), (x, x), (high, low), (low, high))
    )
    room, least = (end - centre).clamp(min=0), (near - centre).clamp(min=0)  # least > 0: x is outside of the box
    radius = _column(eps, x).double().flatten(1)
    distance = far - centre
    lost = (far - distance) - centre  # the distance is exactly distance + lost

    def kept(shift: Tensor, less: Tensor) -> Tensor:
        return torch.minimum(torch.maximum((distance - shift) + (less + lost), least), room)

    def enough(shift: Tensor, less: Tensor) -> Tensor:
        return kept(shift, less).sum(1, keepdim=True) <= radius

    none = torch.zeros_like(radius + distance[:, :1])
    inside = enough(none, none)
    most = distance.nan_to_num(0.0).amax(1, keepdim=True) * (1 + 2**-50)
    shift = _bisected(none, most, lambda middle: enough(middle, none))
    before = (shift.view(torch.int64) - 1).clamp(min=0).view(torch.float64)
    half = (shift - before) / 2
    less = _bisected(none, half, lambda middle: ~enough(shift, middle), last=False)
    more = _bisected(none, half, lambda middle: enough(before, -middle))
    u = torch.where(enough(shift, half), kept(before, -more), kept(shift, less))
    u = torch.where(radius > 0, u, least)
    exact = centre + u
    nearest = exact.to(x.dtype)
    outside = nearest.double() - centre > u
    nearest = torch.where(outside, torch.nextafter(nearest, centre.to(x.dtype)), nearest).view_as(x)
    unchanged = inside.view(-1, *[1] * (x.dim() - 1))
    point = _clamp(torch.where(unchanged, moved, torch.where(up, nearest, -nearest)), lower, upper)
    return _store(point, x, (point - x).abs(), lower, upper, dtype)


def _bisected(low: Tensor, high: Tensor, right: Callable[[Tensor], Tensor], last: bool = True) -> Tensor:
    """Where ``right`` begins to hold between the two, numbers >= 0: its first number, or the one before."""
    below, above = low.view(torch.int64), high.view(torch.int64)
    for _ in range(64):
        middle = below + (above - below) // 2
        found = right(middle.view(torch.float64))
        below, above = torch.where(found, below, middle), torch.where(found, middle, above)
    return (above if last else below).view(torch.float64)


def _store(
    point: Tensor,
    x: Tensor,
    radius: Tensor,
    lower: float | Tensor | None,
    upper: float | Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Rounds to ``dtype``; where half precision would leave the ball and ``x`` is in the box, takes the next number
    toward ``x``."""
    stored = point.to(dtype)
    if dtype not in (torch.float16, torch.bfloat16):
        return stored
    low, high = _box(x, lower, upper)
    q = stored.to(point.dtype)
    outside = ((q - x).abs() > radius) & (x >= low) & (x <= high) & (q != x)
    return torch.where(outside, _toward(stored, x), stored)


def _inner(lower: float | Tensor | None, upper: float | Tensor | None, x: Tensor) -> tuple[Any, Any]:
    """The box of half-precision data: its ends moved inward to numbers of that dtype, where there is one between."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return lower, upper
    low, high = (torch.as_tensor(end).float().expand_as(x) for end in _box(x.float(), lower, upper))
    near_low, near_high = low.to(x.dtype), high.to(x.dtype)
    inner_low = torch.where(near_low.float() < low, _toward(near_low, torch.full_like(low, math.inf)), near_low).float()
    inner_high = torch.where(near_high.float() > high, _toward(near_high, -torch.full_like(high, math.inf)), near_high)
    some = inner_low <= inner_high.float()
    return torch.where(some, inner_low, low), torch.where(some, inner_high.float(), high)


def _toward(q: Tensor, goal: Tensor) -> Tensor:
    """The next number of the dtype of ``q`` on the way to ``goal``."""
    bits, value = q.view(torch.int16), q.to(goal.dtype)
    away_from_zero = (goal > value) == (value > 0)
    from_zero = torch.where(goal > 0, 1, -32767)
    step = torch.where(away_from_zero, bits + 1, bits - 1)
    return torch.where(value == 0, from_zero, step).to(torch.int16).view(q.dtype)


def _trim(values: Tensor, k: Tensor | float) -> Tensor:
    """1 per entry, less a total of ``k`` taken from the smallest ones; ties share what is taken equally."""
    ordered = values.sort().values
    threshold = ordered[min(int(k), len(values) - 1)]
    below, tied = values < threshold, values == threshold
    return (~below).double() - tied.double() * (k - below.sum().double()) / tied.sum()


def _worst_within_kl(values: Tensor, mass: Tensor, r: Tensor | float) -> Tensor:
    """The p that maximizes p.values within KL(mass || p) <= r; in float64: mass / (eta - values), normalized."""
    top, spread = values.max(), values.max() - values.min()
    if r == 0 or spread == 0:
        return mass
    gap = (top - values) / spread
    mean = (mass * gap).sum()
    low, high = -600.0, 400.0  # of log(eta - top), in units of the spread
    while low < (middle := (low + high) / 2) < high:
        c = math.exp(middle)
        u, v = (mean - gap) / (c + mean), (c + gap) / (c + mean)
        log_v = torch.where(u.abs() < 0.5, torch.log1p(-u), v.log())
        divergence = (mass * (log_v + u)).sum() + torch.log1p((mass * u * u / v).sum())
        low, high = (middle, high) if divergence > r else (low, middle)
    p = mass / (math.exp(high) + gap)
    return p / p.sum()
