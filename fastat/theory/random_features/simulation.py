"""Robust random-features regression on data of finite size, trained to a certified optimum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import index
from typing import NamedTuple

import torch
from torch import Tensor

from fastat.support.keyed import derive_seed
from fastat.theory.random_features.asymptotics import check_arguments
from fastat.theory.random_features.erm import robust_least_squares

_TEST_SAMPLES = 20_000
_SAMPLES_AT_ONCE = 2_000
_AT_ONCE, _BYTES = 8, 1 << 31
_SMALLEST = 1e-10  # singular values below this part of the largest count as 0


@dataclass(frozen=True)
class Simulation:
    """What n_trials independent draws of data and features gave; tuples of n_trials numbers.

    Attributes:
        adversarial_risk, standard_risk, jacobian_norm: as in :class:`Asymptotics`, for the trained theta. The
            standard risk and the norm are exact expectations over x, the adversarial risk is exact but for the mean of
            |y - f(x)|, taken over 20,000 fresh samples.
        gap: training objective above that of a dual feasible point: at most so far above its minimum.
    """

    adversarial_risk: tuple[float, ...]
    standard_risk: tuple[float, ...]
    jacobian_norm: tuple[float, ...]
    gap: tuple[float, ...]


class _Draw(NamedTuple):
    """Trials of one shape, [T, ...] each, float64."""

    w: Tensor  # [T, N, d]
    b: Tensor  # [T, d]
    x: Tensor  # [T, n, d]
    y: Tensor  # [T, n]


def simulate(
    psi1: float,
    psi2: float,
    eps: float,
    tau: float,
    d: int,
    n_trials: int,
    *,
    seed: int = 0,
    eps_test: float | None = None,
    device: str | torch.device = "cpu",
    trials_at_once: int | None = None,
) -> Simulation:
    """Trains theta robustly in dimension d, n_trials times, and measures its risks; see :func:`asymptotics`.

    The training problem is convex and solved to its optimum (:func:`robust_least_squares`); at eps = 0 it is least
    squares with the smallest ||J theta||, the limit of eps to 0. A trial depends on the seed, its number and d alone.

    Args:
        psi1, psi2, eps, tau, eps_test: see :func:`asymptotics`; N = round(psi1 d) features, n = round(psi2 d) samples.
        d: dimension, at least 2. Time grows with n min(N, n)^2 + N^3.
        n_trials: at least 1.
        seed: of data and features.
        device: where all of it runs, in float64.
        trials_at_once: trials that are solved as one batch; by default at most 8, fewer if they would take more than
            2 GiB (one of 9,000 features takes 3).

    Raises:
        TypeError: d, n_trials or seed is no integer.
        ValueError: an argument is out of its range.
        ArithmeticError: a training problem could not be solved to a part of 3e-7 of its scale.
    """
    psi1, psi2, eps, tau, eps_test = check_arguments(psi1, psi2, eps, tau, eps_test)
    d, n_trials, seed = index(d), index(n_trials), index(seed)
    for name, value, least in (("d", d, 2), ("n_trials", n_trials, 1), ("trials_at_once", trials_at_once or 1, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    features, samples = max(round(psi1 * d), 1), max(round(psi2 * d), 1)
    at_once = trials_at_once or max(min(_AT_ONCE, int(_BYTES // peak_bytes(features, samples))), 1)
    rows: list[tuple[float, ...]] = []
    for first in range(0, n_trials, at_once):
        trials = range(first, min(first + at_once, n_trials))
        draws = [_draw(features, samples, d, tau, derive_seed(seed, trial, d)) for trial in trials]
        batch = _Draw(*(torch.stack(part).to(device) for part in zip(*draws, strict=True)))
        fresh = [derive_seed(seed, trial, d, 1) for trial in trials]
        found = _train_and_evaluate(batch, eps, eps_test, tau, fresh)
        rows += zip(*(part.tolist() for part in found), strict=True)
    return Simulation(*zip(*rows, strict=True))


def peak_bytes(features: float, samples: float) -> float:
    """What a trial takes at its peak: a few matrices of the features' size, and those of the samples."""
    return 8 * (5 * features**2 + 3 * features * samples)


def _draw(features: int, samples: int, d: int, tau: float, seed: int) -> tuple[Tensor, ...]:
    """One trial, drawn on the CPU: the same on every device."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=random)

    w, b, x = normal(features, d), normal(d), normal(samples, d)
    b /= b.norm()
    return w / w.norm(dim=1, keepdim=True), b, x, x @ b + tau * normal(samples)


def _train_and_evaluate(batch: _Draw, eps: float, eps_test: float, tau: float, fresh: list[int]) -> tuple[Tensor, ...]:
    """Adversarial risk, standard risk, norm and gap of each trial."""
    cosine = (batch.w @ batch.w.transpose(1, 2)).clamp(-1, 1)
    jacobian = cosine * (0.25 + torch.asin(cosine) / (2 * math.pi))  # ||J theta||^2 = theta' jacobian theta
    theta, gap = _train(_features(batch.x, batch.w), batch.y, jacobian, eps)
    norm = (theta * _times(jacobian, theta)).sum(1).clamp(min=0).sqrt()
    covariance = ((1 - cosine.square()).sqrt() + (math.pi - torch.acos(cosine)) * cosine - 1) / (2 * math.pi)
    signal = 0.5 * _times(batch.w.transpose(1, 2), theta)  # E f(x) x
    standard = tau**2 + 1 - 2 * (signal * batch.b).sum(1) + (theta * _times(covariance, theta)).sum(1)
    size = torch.stack([_mean_size(batch, trial, theta[trial], tau, seed) for trial, seed in enumerate(fresh)])
    return standard + 2 * eps_test * norm * size + (eps_test * norm).square(), standard, norm, gap


def _train(phi: Tensor, y: Tensor, jacobian: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """theta [T, N] and the gap [T], in the variable v = L' theta, J'J = L L', whose norm is ||J theta||."""
    lower = torch.linalg.cholesky(jacobian)
    psi = torch.linalg.solve_triangular(lower, phi.transpose(1, 2), upper=False).transpose(1, 2)
    if eps == 0:
        v = torch.linalg.pinv(psi, rtol=_SMALLEST) @ y[:, :, None]
        return _theta(lower, v[:, :, 0]), torch.zeros_like(y[:, 0])
    if psi.shape[2] <= psi.shape[1]:
        solution = robust_least_squares(psi, y, eps)
        return _theta(lower, solution.v), solution.gap
    # more features than samples: v is in the span of the samples, psi = R Q' with as many columns as samples
    basis, right = torch.linalg.qr(psi.transpose(1, 2))
    solution = robust_least_squares(right.transpose(1, 2).contiguous(), y, eps)
    return _theta(lower, _times(basis, solution.v)), solution.gap


def _mean_size(batch: _Draw, trial: int, theta: Tensor, tau: float, seed: int) -> Tensor:
    """The mean of |y - f(x)| over fresh samples."""
    d = batch.b.shape[1]
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64, device=theta.device)
    for _ in range(_TEST_SAMPLES // _SAMPLES_AT_ONCE):
        noise = torch.randn(_SAMPLES_AT_ONCE, d + 1, dtype=torch.float64, generator=random).to(theta.device)
        x, z = noise[:, :d], noise[:, d]
        total += (x @ batch.b[trial] + tau * z - _features(x, batch.w[trial]) @ theta).abs().sum()
    return total / _TEST_SAMPLES


def _features(x: Tensor, w: Tensor) -> Tensor:
    """The centred ReLU of W x."""
    return (x @ w.transpose(-1, -2)).relu_() - 1 / math.sqrt(2 * math.pi)


def _theta(lower: Tensor, v: Tensor) -> Tensor:
    return torch.linalg.solve_triangular(lower.transpose(1, 2), v[:, :, None], upper=True)[:, :, 0]


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    return (matrix @ vector[:, :, None])[:, :, 0]
