"""Patch data: one patch holds the class along a fixed direction, the others hold noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastat.support.keyed import derive_seed

_DIRECTION, _SAMPLES = 0xD1, 0x5A  # purposes in the keys of the random numbers


@dataclass(frozen=True, eq=False)
class PatchData:
    """Samples of P patches each, the signal patch first: the networks sum over the patches, so its place says nothing.

    Attributes:
        x: [N, P, d], float64: alpha y w* in patch 0, noise in the others.
        y: [N], float64: -1 or +1.
        w_star: [d], of length 1.
        alpha: strength of the signal.
    """

    x: Tensor
    y: Tensor
    w_star: Tensor
    alpha: float


def patch_data(
    n: int = 40,
    dim: int = 400,
    patches: int = 2,
    alpha: float = 1.0,
    sigma: float = 0.86,
    *,
    seed: int = 0,
    draw: int = 0,
    device: torch.device | str = "cpu",
) -> PatchData:
    """Draws n samples: y = +-1 with equal chance, the signal alpha y w*, and noise N(0, sigma^2/d (I - w* w*')).

    The data model of Li and Li (ICML 2025), section "training dynamics". The noise patches have length sigma, about,
    and no component along w*.

    Args:
        n: samples, at least 1.
        dim: d, numbers in a patch, at least 2.
        patches: P, at least 2.
        alpha: above 0.
        sigma: the length of a noise patch, about; above 0.
        seed: of w* and of the samples.
        draw: samples with another draw and the same seed are fresh ones around the same w*: 0 to train on, 1 to test.
        device: where the tensors are put; the numbers do not depend on it.

    Raises:
        ValueError: an argument out of its range.
    """
    for name, value, least in (("n", n, 1), ("dim", dim, 2), ("patches", patches, 2)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    for name, size in (("alpha", alpha), ("sigma", sigma)):
        if not 0 < size < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {size}")
    direction = torch.Generator().manual_seed(derive_seed(seed, _DIRECTION))
    w_star = torch.randn(dim, generator=direction, dtype=torch.float64)
    w_star /= w_star.norm()
    generator = torch.Generator().manual_seed(derive_seed(seed, _SAMPLES, draw))
    y = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
    x = torch.randn(n, patches, dim, generator=generator, dtype=torch.float64) * (sigma / dim**0.5)
    x -= (x @ w_star)[..., None] * w_star
    x[:, 0] = alpha * y[:, None] * w_star
    return PatchData(x.to(device), y.to(device), w_star.to(device), alpha)
