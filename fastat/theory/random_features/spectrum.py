"""The spectrum of the features' weights, and integrals over it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MU1 = 0.5  # E[sigma(z) z], z standard normal, sigma the centred ReLU
MU_STAR_2 = 0.25 - 1 / (2 * math.pi)  # E[sigma(z)^2] - MU1^2: what is not linear in sigma
C = MU_STAR_2 / MU1**2  # 1 - 2/pi

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """A quadrature of rho, the law of the eigenvalues of W W' as N/d -> psi1, and what the theory needs at its nodes.

    rho is the Marchenko-Pastur law of ratio psi1: support (1 - sqrt(psi1))^2 to (1 + sqrt(psi1))^2, and for psi1 > 1 an
    atom 1 - 1/psi1 at 0.

    Attributes:
        x: eigenvalues [Q], the first is 0.
        weight: [Q], sums to 1. The integral of f over rho is about ``weight @ f(x)``; for the f of the theory, which
            are analytic right of x = -(1 - 2/pi), the error falls by 1.8^-2 or faster with every node.
        k: K(x) = mu1^2 x + mu*^2, the features' covariance.
        j: (x + 1) / 4, what the square of the Jacobian's norm is in that basis.
        t: mu1^2 x / K(x)^2, the part of the signal that an eigenvector carries.
    """

    x: Array
    weight: Array
    k: Array
    j: Array
    t: Array


def spectrum(psi1: float, nodes: int) -> Spectrum:
    """The quadrature with so many nodes beside that at 0.

    With x = 1 + psi1 + 2 sqrt(psi1) cos(angle) the integral of f over the continuous part is that of
    (2 / pi) sin(angle)^2 f(x) / x over the angle. Near psi1 = 1 the 1/x has a pole next to the interval: so f(0), whose
    integral is known, is subtracted from f, which the node at 0 does. What remains is a smooth periodic function of
    the angle, for which the trapezoidal rule converges exponentially.
    """
    angle = np.pi * np.arange(1, nodes + 1) / (nodes + 1)
    x = (1 - math.sqrt(psi1)) ** 2 + 4 * math.sqrt(psi1) * np.cos(angle / 2) ** 2
    weight = 2 / (nodes + 1) * np.sin(angle) ** 2 / x
    x = np.concatenate([[0.0], x])
    k = MU1**2 * x + MU_STAR_2
    return Spectrum(x, np.concatenate([[1 - weight.sum()], weight]), k, (x + 1) / 4, MU1**2 * x / k**2)


def unexplained(psi1: float, tau: float, spectrum: Spectrum) -> float:
    """sigma^2 = tau^2 + 1 - psi1 (1 - c m(-c)), c = 1 - 2/pi, m the Stieltjes transform of rho.

    The noise and the part of the signal that infinitely many samples would not teach the features.
    """
    return tau**2 + 1 - psi1 * float(spectrum.weight @ (spectrum.x / (spectrum.x + C)))
