"""Training without attack, the limit eps -> 0 of robust training: it has closed forms."""

from __future__ import annotations

import math

from scipy.optimize import brentq

from fastat.theory.random_features.spectrum import Spectrum, unexplained


def ridgeless(psi1: float, psi2: float, tau: float, rho: Spectrum) -> tuple[float, float, float]:
    """Standard risk, ||J theta|| and the relative residual of the equation that was solved for them.

    With fewer features than samples (psi1 < psi2) this is least squares; with more, the interpolator with the smallest
    ||J theta|| (not the smallest ||theta||): what robust training tends to as eps goes to 0. With q = eps^2 g / mu,
    which stays finite in the second case, the equations of the saddle point become

        (psi1/psi2) int rho / (1 + q J/K) = 1,    SR = (sigma^2 + psi1 q^2 int rho J^2 T / (K (1 + q J/K)^2)) / rest,
        ||J theta||^2 = psi1 [ (SR/psi2) int rho (J/K) / (1 + q J/K)^2 + int rho J T / (1 + q J/K)^2 ],
        rest = 1 - (psi1/psi2) int rho / (1 + q J/K)^2,

    and q = 0 in the first.
    """
    ratio, w = psi1 / psi2, rho.j / rho.k

    def excess(log_q: float) -> float:
        return ratio * float(rho.weight @ (1 / (1 + math.exp(log_q) * w))) - 1

    q = math.exp(brentq(excess, -80.0, 80.0, xtol=1e-14, rtol=1e-14)) if ratio > 1 else 0.0
    found = abs(excess(math.log(q))) if ratio > 1 else 0.0
    d2 = (1 + q * w) ** 2
    rest = 1 - ratio * float(rho.weight @ (1 / d2))
    standard = (unexplained(psi1, tau, rho) + psi1 * q**2 * float(rho.weight @ (rho.j**2 * rho.t / rho.k / d2))) / rest
    norm2 = psi1 * float(rho.weight @ ((standard / psi2 / rho.k + rho.t) * rho.j / d2))
    return standard, math.sqrt(norm2), found
