"""Robust training of random features in the limit of large dimensions: its risks, from one scalar saddle point."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastat.theory.random_features.ridgeless import ridgeless
from fastat.theory.random_features.saddle import Saddle, residual, risk_range, solve
from fastat.theory.random_features.spectrum import MU1, spectrum, unexplained

_NODES = 64
_HUGE = 1e100
_NO_ATTACK = 1e-20  # below it the risks are those of no attack, to all digits
_RESIDUAL = 1e-7
_ACCURACY = 1e-4


@dataclass(frozen=True)
class Asymptotics:
    """Risks of the robustly trained model as n, N, d grow in proportion.

    Attributes:
        adversarial_risk: AR = E (|y - f(x)| + eps_test ||J theta||)^2.
        standard_risk: SR = E (y - f(x))^2.
        jacobian_norm: ||J theta||, the root mean square of the norm of f's gradient to x.
        eps_c: from this radius on theta = 0 is optimal.
        saddle: the stationary point; None where theta = 0, and at eps = 0, where g is infinite.
        residual: the largest relative difference between the two sides of its equations, on a quadrature of twice the
            nodes; 0 for a closed form.
        error: the larger distance of adversarial_risk from its values at the two ends of an interval in which, on the
            finer quadrature, the last equation changes its sign; at most 1e-4 of it (of 1, if it is smaller). Rounding
            in the equations themselves is not in it: it shows where the risk is huge, next to psi1 = psi2 without
            attack, and stayed below 1e-6 of the risk there.
    """

    adversarial_risk: float
    standard_risk: float
    jacobian_norm: float
    eps_c: float
    saddle: Saddle | None
    residual: float
    error: float


def asymptotics(psi1: float, psi2: float, eps: float, tau: float, eps_test: float | None = None) -> Asymptotics:
    """Limit of the risks of robust random-features regression (Hassani and Javanmard 2024, theorem 4.2).

    Data x ~ N(0, I_d), y = <b, x> + tau z with ||b|| = 1; model theta . sigma(W x), the N rows of W uniform on the unit
    sphere, sigma the centred ReLU; N/d -> psi1, n/d -> psi2. theta minimizes the mean over the samples of
    (|y - theta . sigma(W x)| + eps ||J theta||)^2, the squared loss under the worst perturbation in an l2 ball.

    The limit is a saddle point in six scalars. Its equations give four of them in terms of k = t/beta and h = s/A, and
    one has a single root in k for each h: two nested one-dimensional searches find the solution for eps < eps_c in all
    of the domain below, without a starting point to guess.

    Args:
        psi1: features per dimension, above 0.
        psi2: samples per dimension, above 0.
        eps: radius of the training, at least 0, in the unit of x, whose norm is about sqrt(d).
        tau: standard deviation of the noise, at least 0.
        eps_test: radius of the risk; that of the training if not given.

    Returns:
        The risks, the solution, and how well it satisfies its equations. Tried on psi1 in [0.05, 50], psi2 in [0.2,
        50], eps in [0, 3], tau in [0, 2], eps = 0, eps next to eps_c and psi1 = psi2 included.

    Raises:
        ValueError: an argument is out of its range, or psi1 = psi2 with eps = 0, where the risks are infinite.
        ArithmeticError: the solution could not be certified.
    """
    psi1, psi2, eps, tau, at = check_arguments(psi1, psi2, eps, tau, eps_test)
    limit = critical_eps(psi1, psi2, tau)
    if eps >= limit * (1 - 1e-13):  # closer than rounding
        null = 1 + tau**2
        return Asymptotics(null, null, 0.0, limit, None, 0.0, 0.0)
    if eps < _NO_ATTACK:
        return _without_attack(psi1, psi2, tau, at, limit)
    coarse, fine = (spectrum(psi1, nodes) for nodes in (_NODES, 2 * _NODES))
    saddle = solve(psi1, psi2, eps, tau, coarse)
    found = residual(saddle, psi1, psi2, eps, tau, fine)
    low, high = (_risk(standard, norm, at) for standard, norm in risk_range(saddle, psi1, psi2, eps, tau, fine))
    standard = saddle.alpha**2 + unexplained(psi1, tau, fine)
    norm = saddle.s / eps
    risk = _risk(standard, norm, at)
    return _certified(risk, standard, norm, limit, saddle, found, max(abs(risk - low), abs(risk - high)))


def critical_eps(psi1: float, psi2: float, tau: float) -> float:
    """eps_c: theta = 0 is optimal exactly for eps >= eps_c.

    eps_c^2 = (pi/2) / (1 + tau^2) [ psi1 int rho mu1^2 x / J + (psi1/psi2) (1 + tau^2) int rho K / J ], the radius at
    which the slope of the objective to the norm of theta changes its sign at 0. The arguments are those of
    :func:`asymptotics`.
    """
    psi1, psi2, _, tau, _ = check_arguments(psi1, psi2, 0.0, tau, None)
    rho = spectrum(psi1, _NODES)
    signal = psi1 * float(rho.weight @ (MU1**2 * rho.x / rho.j))
    noise = psi1 / psi2 * (1 + tau**2) * float(rho.weight @ (rho.k / rho.j))
    return math.sqrt(math.pi / 2 / (1 + tau**2) * (signal + noise))


def _without_attack(psi1: float, psi2: float, tau: float, eps_test: float, limit: float) -> Asymptotics:
    if psi1 == psi2:
        raise ValueError(
            f"eps must be above {_NO_ATTACK:g} where psi1 = psi2: the risk is infinite without attack; "
            f"got psi1 = psi2 = {psi1}"
        )
    risks = []
    for nodes in (_NODES, 2 * _NODES):
        standard, norm, found = ridgeless(psi1, psi2, tau, spectrum(psi1, nodes))
        risks.append(_risk(standard, norm, eps_test))
    return _certified(risks[1], standard, norm, limit, None, found, abs(risks[1] - risks[0]))


def _certified(
    adversarial: float, standard: float, norm: float, limit: float, saddle: Saddle | None, found: float, error: float
) -> Asymptotics:
    if not (found <= _RESIDUAL and error <= _ACCURACY * max(1.0, adversarial)):
        raise ArithmeticError(
            f"the saddle point could not be certified: residual {found:.1e}, adversarial risk within {error:.1e}"
        )
    return Asymptotics(adversarial, standard, norm, limit, saddle, found, error)


def _risk(standard: float, norm: float, eps_test: float) -> float:
    """AR from SR and ||J theta||: the residual is Gaussian in the limit."""
    pushed = eps_test * norm
    return standard + 2 * math.sqrt(2 / math.pi * standard) * pushed + pushed**2


def check_arguments(
    psi1: float, psi2: float, eps: float, tau: float, eps_test: float | None
) -> tuple[float, float, float, float, float]:
    """The arguments of :func:`asymptotics` as Python's floats, eps_test filled in.

    Raises:
        ValueError: one is out of its range; the message has its name and value.
    """
    found = {"psi1": psi1, "psi2": psi2, "eps": eps, "tau": tau, "eps_test": eps if eps_test is None else eps_test}
    for name, value in found.items():
        positive = name.startswith("psi")
        if not (0 < value < _HUGE if positive else 0 <= value < _HUGE):
            raise ValueError(f"{name} must be {'above 0' if positive else 'at least 0'} and below 1e100, got {value}")
    return float(psi1), float(psi2), float(eps), float(tau), float(found["eps_test"])
