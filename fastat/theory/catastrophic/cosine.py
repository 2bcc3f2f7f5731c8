"""The two-dimensional discrete cosine transform: an orthonormal basis of images, ordered by frequency."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dct_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II: float64 [n, n], row k holds sqrt(2 / n) cos(pi (2 i + 1) k / (2 n)), row 0 sqrt(1 / n).

    The coefficients of an image X [H, W] are ``dct_matrix(H) @ X @ dct_matrix(W).T``; the transposed matrix inverts.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    frequency = torch.arange(n, dtype=torch.float64)[:, None]
    place = torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi * (2 * place + 1) * frequency / (2 * n)) * math.sqrt(2 / n)
    rows[0] /= math.sqrt(2)
    return rows


def cosine_signs(n: int, frequency: int) -> Tensor:
    """The sign of a row of :func:`dct_matrix`, float32 [n], 0 where the cosine is: from integers, so without rounding.

    pi (2 i + 1) k / (2 n) is (2 i + 1) k quarters of a turn divided by n: the cosine is 0 at n and 3 n quarters.
    """
    quarter = ((2 * torch.arange(n) + 1) * frequency) % (4 * n)
    zero = (quarter == n) | (quarter == 3 * n)
    negative = (quarter > n) & (quarter < 3 * n)
    return torch.where(zero, 0.0, torch.where(negative, -1.0, 1.0))


def zigzag(height: int, width: int) -> list[tuple[int, int]]:
    """The (row, column) frequencies of an image by their sum, from (0, 0), the direction turning with every sum."""
    found = []
    for total in range(height + width - 1):
        diagonal = [(row, total - row) for row in range(height) if 0 <= total - row < width]
        found += diagonal if total % 2 else diagonal[::-1]
    return found
