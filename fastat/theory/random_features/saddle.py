"""The saddle point of robust random-features regression, by two nested searches for a single root.

    L = beta t / 2 + A^2 e(t / beta, s / A) - (psi1/psi2) (beta^2 / 2) int rho / D
        - (psi1/2) int rho (g a)^2 T / (K D) + (g psi1 / 2) int rho a T - mu alpha^2 / 2 - g s^2 / 2,
    a = eps^2 J,  D = mu + g a / K,  A^2 = alpha^2 + sigma^2,

minimized over (alpha, s, t), maximized over (beta, mu, g). It follows from the convex Gaussian min-max theorem and
says the same as the five variables of Hassani and Javanmard (2024), equations 4.5 and 4.6. With k = t / beta, h = s / A
and e the envelope, its stationary points are

    mu = 2 e - h e_h,   g = e_h / h,   beta^2 = -2 A^2 e_k,   k = (psi1/psi2) int rho / D,
    alpha^2 = psi1 [ (beta^2/psi2) int rho / D^2 + int rho (g a)^2 T / (K D^2) ],
    s^2     = psi1 [ (beta^2/psi2) int rho (a/K) / D^2 + int rho mu^2 a T / D^2 ].

Given h the first four fix k: mu k grows with k, from 0 to 1, and (psi1/psi2) int rho mu / D falls. The fifth then gives
A, and the last one is an equation in h alone, with one root.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from scipy.optimize import brentq

from fastat.theory.random_features.envelope import envelope
from fastat.theory.random_features.spectrum import Spectrum, unexplained

_WIDTHS = (1e-11, 1e-9, 1e-7, 1e-5, 1e-3, 0.1, 0.9)  # of the interval around h that should hold the root, relative
_FAR = 700.0  # the logarithm of what a double holds


@dataclass(frozen=True)
class Saddle:
    """The stationary point; all variables are positive.

    A^2 = alpha^2 + sigma^2 is the standard risk and s = eps ||J theta||; mu and g are the multipliers of alpha and s,
    beta that of the residuals, k = t / beta the scale of their envelope.
    """

    alpha: float
    s: float
    t: float
    beta: float
    mu: float
    g: float


class _Point(NamedTuple):
    """All other variables, given h."""

    k: float
    mu: float
    g: float
    beta_per_a: float
    a2: float
    balance: float  # of the last equation over h^2: negative below the root, positive above it


def solve(psi1: float, psi2: float, eps: float, tau: float, rho: Spectrum) -> Saddle:
    """The saddle point for 0 < eps < eps_c; the arguments are those of :func:`asymptotics`."""

    def balance(log_h: float) -> float:
        return _at(math.exp(log_h), psi1, psi2, eps, tau, rho).balance

    h = math.exp(_root(balance, -1.0))
    point = _at(h, psi1, psi2, eps, tau, rho)
    a = math.sqrt(point.a2)
    beta = point.beta_per_a * a
    alpha = math.sqrt(max(point.a2 - unexplained(psi1, tau, rho), 0.0))
    return Saddle(alpha, h * a, point.k * beta, beta, point.mu, point.g)


def risk_range(
    saddle: Saddle, psi1: float, psi2: float, eps: float, tau: float, rho: Spectrum
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(SR, ||J theta||) at two values of h around the saddle's with the root between them, as near as it can be shown.

    With a finer quadrature than the saddle was solved with, this encloses the error of the coarse one too.
    """
    a = math.sqrt(saddle.alpha**2 + unexplained(psi1, tau, rho))
    h = saddle.s / a
    for width in _WIDTHS:
        ends = [(end, _at(end, psi1, psi2, eps, tau, rho)) for end in (h * (1 - width), h * (1 + width))]
        if ends[0][1].balance <= 0 <= ends[1][1].balance:
            break
    else:
        return (math.nan, math.nan), (math.nan, math.nan)
    low, high = ((point.a2, end * math.sqrt(point.a2) / eps) for end, point in ends)
    return low, high


def residual(saddle: Saddle, psi1: float, psi2: float, eps: float, tau: float, rho: Spectrum) -> float:
    """The largest relative difference between the two sides of the six equations above."""
    sigma2 = unexplained(psi1, tau, rho)
    a2 = saddle.alpha**2 + sigma2
    k, found = saddle.t / saddle.beta, envelope(saddle.t / saddle.beta, saddle.s / math.sqrt(a2))
    a = eps**2 * rho.j
    d = saddle.mu + saddle.g * a / rho.k
    spread = saddle.beta**2 / psi2
    alpha2 = psi1 * float(rho.weight @ ((spread + (saddle.g * a) ** 2 * rho.t / rho.k) / d**2))
    s2 = psi1 * float(rho.weight @ ((spread / rho.k + saddle.mu**2 * rho.t) * a / d**2))
    sides = (
        (saddle.mu, found.scale),
        (saddle.g, found.radius),
        (saddle.beta**2, a2 * found.variance),
        (k, psi1 / psi2 * float(rho.weight @ (1 / d))),
        (a2, alpha2 + sigma2),
        (saddle.s**2, s2),
    )
    return max(abs(left - right) / max(abs(left), abs(right)) for left, right in sides)


def _at(h: float, psi1: float, psi2: float, eps: float, tau: float, rho: Spectrum) -> _Point:
    a = eps**2 * rho.j
    w = a / rho.k
    ratio = psi1 / psi2

    def excess(log_k: float) -> float:
        found = envelope(math.exp(log_k), h)
        return found.scale * math.exp(log_k) - ratio * float(rho.weight @ (1 / (1 + found.radius / found.scale * w)))

    k = math.exp(_root(excess, 0.0))
    found = envelope(k, h)
    q = found.radius / found.scale
    d2 = (1 + q * w) ** 2
    spread = ratio * found.variance / found.scale**2  # beta^2 / (A mu)^2, times the ratio
    rest = 1 - spread * float(rho.weight @ (1 / d2))  # A^2 times this is what the fifth equation leaves
    fixed = unexplained(psi1, tau, rho) + psi1 * q**2 * float(rho.weight @ (a**2 * rho.t / rho.k / d2))
    balance = (h**2 - spread * float(rho.weight @ (w / d2))) * fixed - psi1 * float(
        rho.weight @ (a * rho.t / d2)
    ) * rest
    a2 = fixed / rest if rest > 0 else math.inf
    return _Point(k, found.scale, found.radius, math.sqrt(found.variance), a2, balance / h**2)


def _root(f: Callable[[float], float], start: float) -> float:
    """Where the function, negative on the left of its only root and positive on the right, is zero.

    Raises:
        ArithmeticError: no root within the logarithms of doubles.
    """
    low = high = start
    step = 1.0
    while f(low) > 0:
        low, step = low - step, 2 * step
        if low < -_FAR:
            raise ArithmeticError("the saddle point lies beyond what double precision holds")
    step = 1.0
    while f(high) < 0:
        high, step = high + step, 2 * step
        if high > _FAR:
            raise ArithmeticError("the saddle point lies beyond what double precision holds")
    return float(brentq(f, low, high, xtol=1e-14, rtol=1e-14)) if low < high else low
