"""Exact robust least squares: an interior-point method for many problems at once, with a certificate of optimality.

    min_v  P(v) = (1/n) sum_i (|y_i - psi_i . v| + eps ||v||)^2

as min (1/n) sum (t_i + eps ||v||)^2 over |y_i - psi_i . v| <= t_i, by Newton's method on the barrier of these cones.
The norm needs no cone: it is smoothed, by less and less as the barrier fades, to sqrt(||v||^2 + delta^2). t is
eliminated from each Newton system, which leaves p unknowns.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_GROWTH = 20.0  # of the weight of the objective against the barrier
_CENTRED = 0.02  # half the squared Newton decrement at which the weight grows
_SOLVED = 1e-5  # and at which the search ends
_NEWTON_STEPS = 300
_HALVINGS = 40
_SLACK = 30.0  # between the gap off the central path and on it
_BISECTIONS = 200


class Solution(NamedTuple):
    """Of a batch of T problems.

    Attributes:
        v: [T, p].
        value: P(v), [T].
        gap: [T], the value minus that of a dual feasible point: how far from the optimum it is at most.
    """

    v: Tensor
    value: Tensor
    gap: Tensor


class _State(NamedTuple):
    v: Tensor  # [T, p]
    t: Tensor  # [T, n]


def robust_least_squares(psi: Tensor, y: Tensor, eps: float, accuracy: float = 1e-8) -> Solution:
    """Minimizes the mean over the samples of (|y_i - psi_i . v| + eps ||v||)^2 in each of T problems.

    v = 0 is optimal exactly where ||psi' y|| <= eps sum |y_i|, the slopes there; it is then returned without a search.

    Args:
        psi: float64 [T, n, p].
        y: float64 [T, n].
        eps: above 0.
        accuracy: of the value, relative to that of v = 0.

    Raises:
        ArithmeticError: a problem was not solved to 30 times that accuracy.
    """
    value = y.square().mean(1)
    found = Solution(torch.zeros_like(psi[:, 0]), value, torch.zeros_like(value))
    searched = _apply_transposed(psi, y).norm(dim=1) > eps * y.abs().sum(1)
    if bool(searched.any()):
        solved = _search(psi[searched], y[searched], eps, accuracy)
        for whole, part in zip(found, solved, strict=True):
            whole[searched] = part
    return found


def _search(psi: Tensor, y: Tensor, eps: float, accuracy: float) -> Solution:
    """The solutions where none is 0."""
    scale = y.square().mean(1)  # the value of v = 0
    n = y.shape[1]
    state = _start(psi, y, eps, scale)
    weight = 2 * n / scale
    wanted = 2 * n / (accuracy * scale)  # on the central path the gap is 2 n / weight
    for _ in range(_NEWTON_STEPS):
        state, decrement = _newton(psi, y, eps, weight, state)
        last = weight >= wanted
        if bool((last & (decrement < _SOLVED)).all()):
            break
        weight = torch.where(~last & (decrement < _CENTRED), _GROWTH * weight, weight)
    residual = y - _apply(psi, state.v)
    value = (residual.abs() + eps * state.v.norm(dim=1)[:, None]).square().mean(1)
    multiplier = 2 * residual / (state.t.square() - residual.square()) / weight[:, None]
    balanced = _balanced(psi, eps, state.v, multiplier)
    gap = value - torch.maximum(_dual(psi, y, eps, multiplier), _dual(psi, y, eps, balanced))
    if not bool((gap <= _SLACK * accuracy * scale).all()):
        raise ArithmeticError(f"robust least squares was solved to {float((gap / scale).max()):.1e} only")
    return Solution(state.v, value, gap)


def _start(psi: Tensor, y: Tensor, eps: float, scale: Tensor) -> _State:
    """The ridge regression that robust regression would be with residuals all alike."""
    gram = psi.transpose(1, 2) @ psi / y.shape[1]
    gram.diagonal(dim1=1, dim2=2).add_(eps * max(eps, 1.0))
    v = torch.cholesky_solve(_apply_transposed(psi, y / y.shape[1])[:, :, None], torch.linalg.cholesky(gram))[:, :, 0]
    return _State(v, (y - _apply(psi, v)).abs() + scale.sqrt()[:, None])


def _newton(psi: Tensor, y: Tensor, eps: float, weight: Tensor, state: _State) -> tuple[_State, Tensor]:
    """A damped Newton step on weight * objective + barrier, and half the square of its decrement."""
    v, t = state
    n = y.shape[1]
    delta = n / weight
    r, norm = y - _apply(psi, v), _smooth_norm(v, delta)
    unit = v / norm[:, None]
    share = (2 * weight / n)[:, None]
    cone, total = t.square() - r.square(), t + eps * norm[:, None]
    push = eps * (share * total).sum(1)
    on_t = share * total - 2 * t / cone
    on_v = push[:, None] * unit - _apply_transposed(psi, 2 * r / cone)

    bend = 2 * (t.square() + r.square()) / cone.square()
    a, b = share + bend, -4 * t * r / cone.square()
    cross = _apply_transposed(psi, eps * share * b / a)
    matrix = psi.transpose(1, 2) @ (((share * bend + 4 / cone.square()) / a)[:, :, None] * psi)  # bend - b^2 / a
    matrix += cross[:, :, None] * unit[:, None, :] + unit[:, :, None] * cross[:, None, :]
    along = eps**2 * (share * bend / a).sum(1) - push / norm
    matrix += along[:, None, None] * unit[:, :, None] * unit[:, None, :]
    matrix.diagonal(dim1=1, dim2=2).add_((push / norm)[:, None])
    # a dt = -on_t - b dr - eps share (unit . dv), dr = -psi dv
    back = on_t / a
    right = (eps * (share * back).sum(1))[:, None] * unit - _apply_transposed(psi, b * back) - on_v
    dv = torch.cholesky_solve(right[:, :, None], torch.linalg.cholesky(matrix))[:, :, 0]
    dr = -_apply(psi, dv)
    dt = -back - (b * dr + eps * share * (unit * dv).sum(1)[:, None]) / a
    slope = (on_t * dt).sum(1) + (on_v * dv).sum(1)

    length, taken = torch.ones_like(norm), torch.zeros_like(norm)
    before = _barrier(r, v, t, eps, weight, delta)
    for _ in range(_HALVINGS):
        step = length[:, None]
        trial = _barrier(r + step * dr, v + step * dv, t + step * dt, eps, weight, delta)
        good = trial <= before + 0.1 * length * slope  # a NaN, outside of the cones, is not
        taken = torch.where((taken == 0) & good, length, taken)
        if bool((taken > 0).all()):
            break
        length = length / 2
    moved = _State(v + taken[:, None] * dv, t + taken[:, None] * dt)
    return moved, torch.where(taken > 0, -slope / 2, 0.0)  # where rounding forbids a step, there is none to take


def _barrier(r: Tensor, v: Tensor, t: Tensor, eps: float, weight: Tensor, delta: Tensor) -> Tensor:
    """weight * objective + barrier, NaN outside of the cones."""
    objective = (t + eps * _smooth_norm(v, delta)[:, None]).square().mean(1)
    return weight * objective - torch.log(t + r).sum(1) - torch.log(t - r).sum(1)


def _smooth_norm(v: Tensor, delta: Tensor) -> Tensor:
    return (v.square().sum(1) + delta.square()).sqrt()


def _balanced(psi: Tensor, eps: float, v: Tensor, multiplier: Tensor) -> Tensor:
    """The nearest multiplier that satisfies the condition of optimality in v, psi' multiplier = slope v / ||v||.

    Residuals close to their cones leave the multiplier half its digits, and for small eps the bound needs them: it
    loses the square of what is missing over eps^2. Where psi has no full rank the multiplier stays as it is.
    """
    n, norm = psi.shape[1], v.norm(dim=1)
    slope = eps * torch.maximum(multiplier.abs(), 2 * eps * norm[:, None] / n).sum(1)
    missing = _apply_transposed(psi, multiplier) - (slope / norm)[:, None] * v
    factor, failed = torch.linalg.cholesky_ex(psi.transpose(1, 2) @ psi)
    correction = _apply(psi, torch.cholesky_solve(missing[:, :, None], factor)[:, :, 0])
    sound = (failed == 0) & correction.isfinite().all(1)
    return torch.where(sound[:, None], multiplier - correction, multiplier)


def _dual(psi: Tensor, y: Tensor, eps: float, multiplier: Tensor) -> Tensor:
    """A lower bound of the optimal value, from any multiplier [T, n] of the residuals:

    multiplier . y + min over s >= 0 of sum_i phi_i(s) - ||psi' multiplier|| s, where phi_i(s), the minimum over
    t_i >= 0 of (t_i + eps s)^2 / n - |multiplier_i| t_i, has the slope eps max(|multiplier_i|, 2 eps s / n).
    """
    n = y.shape[1]
    size = multiplier.abs()
    pull = _apply_transposed(psi, multiplier).norm(dim=1)
    low = torch.zeros_like(pull)
    high = pull / (2 * eps**2)  # where the last slopes alone make up for the pull
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        rising = eps * torch.maximum(size, 2 * eps * middle[:, None] / n).sum(1) > pull
        low, high = torch.where(rising, low, middle), torch.where(rising, middle, high)
    s = low[:, None]
    fitted = n * size / 2 < eps * s  # t_i = 0
    terms = torch.where(fitted, (eps * s).square() / n, size * eps * s - n * size.square() / 4)
    return (multiplier * y).sum(1) + terms.sum(1) - pull * low


def _apply(psi: Tensor, v: Tensor) -> Tensor:
    return (psi @ v[:, :, None])[:, :, 0]


def _apply_transposed(psi: Tensor, u: Tensor) -> Tensor:
    return (u[:, None, :] @ psi)[:, 0]
