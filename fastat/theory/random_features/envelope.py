"""The Moreau envelope of one sample's robust loss, averaged over its Gaussian residual."""

from __future__ import annotations

import math
from typing import NamedTuple

from scipy.special import erf, erfc, gammainc, gammaincc


class Envelope(NamedTuple):
    """Derivatives of e(k, h) = E min_u [(Z - u)^2 / (2k) + (|u| + h)^2], Z standard normal.

    The envelope at scale A is A^2 e(k, s / A). The best u is 0 for |Z| <= 2kh, where the sample is fitted exactly, and
    sign(Z) (|Z| - 2kh) / (1 + 2k) beyond. All are sums of positive terms: no digits cancel.

    Attributes:
        scale: 2 e - h e_h, the derivative to A over A: the value of mu at a stationary point.
        radius: e_h / h, the derivative to s over s: the value of g there.
        variance: -2 e_k, in units of A^2 the value of beta^2.
    """

    scale: float
    radius: float
    variance: float


def envelope(k: float, h: float) -> Envelope:
    """Of k > 0 and h > 0."""
    c = 2 * k * h
    inside_0, outside_0 = float(erf(c / math.sqrt(2))), float(erfc(c / math.sqrt(2)))
    inside_2, outside_2 = float(gammainc(1.5, c * c / 2)), float(gammaincc(1.5, c * c / 2))
    outside_1 = math.sqrt(2 / math.pi) * math.exp(-c * c / 2)
    shrink = 1 + 2 * k
    return Envelope(
        scale=inside_2 / k + 2 * (outside_2 + h * outside_1) / shrink,
        radius=2 * inside_0 + 2 * (outside_1 / h + outside_0) / shrink,
        variance=inside_2 / k**2 + 4 * (outside_2 + 2 * h * outside_1 + h * h * outside_0) / shrink**2,
    )
