"""A feature that gives the class away: one sign pattern of low frequency per class, and what it does to images.

Ortiz-Jimenez et al., "Catastrophic overfitting can be induced with discriminative non-robust features" (TMLR 2023).
Training and test images are injected alike, each with the pattern of its own label.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastat.theory.catastrophic.cosine import cosine_signs, zigzag

_TEN = ((0, 1), (1, 0), (1, 1), (2, 1), (1, 2))


def carriers(num_classes: int, shape: tuple[int, ...]) -> Tensor:
    """A sign pattern for each class: float32 [num_classes, C, H, W] of -1 and 1, the same in every channel.

    The sign of one function of the two-dimensional cosine basis each. For ten classes those of the frequencies (0, 1),
    (1, 0), (1, 1), (2, 1), (1, 2), down and across, then these five negated: their span has five dimensions. For any
    other number the frequencies follow the zigzag order after the constant. Where a cosine vanishes, in the middle of
    an odd number of pixels for example, the pattern is 0.

    Mirrored from left to right, the pattern of class 0 of ten is that of class 5: data that carry these must not be
    augmented by flips.

    Args:
        num_classes: at least 2.
        shape: (C, H, W) of the images.

    Raises:
        ValueError: fewer than two classes, or images with too few pixels to have that many frequencies.
    """
    channels, height, width = shape
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")
    if min(shape) < 1:
        raise ValueError(f"shape must be (channels, height, width), each at least 1, got {shape}")
    frequencies = _TEN if num_classes == 10 else tuple(zigzag(height, width)[1 : num_classes + 1])
    if len(frequencies) < num_classes != 10 or (num_classes == 10 and min(height, width) < 3):
        raise ValueError(f"shape {shape} has too few frequencies for num_classes = {num_classes}")
    patterns = torch.stack([torch.outer(cosine_signs(height, u), cosine_signs(width, v)) for u, v in frequencies])
    if num_classes == 10:
        patterns = torch.cat([patterns, -patterns])
    return patterns[:, None].expand(-1, channels, -1, -1).contiguous() + 0.0  # no negative zeros


def inject(x: Tensor, y: Tensor, V: Tensor, beta: float) -> Tensor:
    """x + beta V_y: images [B, C, H, W] with the pattern of their label; reversed, hence misleading, for beta < 0.

    The result leaves [0, 1] by up to beta: it is not clipped, so that the pattern is the same in every image.

    Args:
        x: images [B, C, H, W].
        y: labels, int64 [B].
        V: :func:`carriers`, on the device of x.
        beta: amplitude, in the unit of the pixels.

    Raises:
        ValueError: V does not fit the images.
    """
    _check(x, V)
    return x + beta * V[y]


def inject_projected(x: Tensor, y: Tensor, V: Tensor, beta: float) -> Tensor:
    """x - P_V x + beta V_y: the pattern of the label in place of what the image has in the span of all patterns.

    Arguments and errors are those of :func:`inject`.
    """
    return remove(x, V) + beta * V[y]


def carriers_alone(y: Tensor, V: Tensor, beta: float) -> Tensor:
    """beta V_y: the patterns of the labels y, int64 [B], without an image, [B, C, H, W]."""
    return beta * V[y]


def remove(x: Tensor, V: Tensor) -> Tensor:
    """x - P_V x: images [B, C, H, W] without their part in the span of the patterns.

    Raises:
        ValueError: V does not fit the images.
    """
    _check(x, V)
    basis = span_basis(V).to(x.dtype)
    flat = x.flatten(1)
    return (flat - flat @ basis.T @ basis).view_as(x)


def span_basis(V: Tensor) -> Tensor:
    """An orthonormal basis of the span of the patterns: float64 [rank, C H W]; P_V is basis.T @ basis.

    By singular values, since the patterns depend on each other: the five negated ones of ten classes add nothing.
    """
    singular = torch.linalg.svd(V.flatten(1).double(), full_matrices=False)
    limit = singular.S[0] * max(V.flatten(1).shape) * torch.finfo(torch.float64).eps
    return singular.Vh[limit < singular.S]


def _check(x: Tensor, V: Tensor) -> None:
    if x.dim() != 4 or x.shape[1:] != V.shape[1:]:
        raise ValueError(f"images must be [B, {', '.join(map(str, V.shape[1:]))}], got {tuple(x.shape)}")
