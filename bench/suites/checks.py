"""What suites check of a result: that it is close to the exact one, and that points stay in the ball and the box."""

import math

import torch
from torch import Tensor

_P = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def close(actual: Tensor, expected: Tensor, atol: float, rtol: float = 0.0) -> None:
    """AssertionError unless the two agree, a NaN being wrong."""
    torch.testing.assert_close(actual.double(), expected.double(), rtol=rtol, atol=atol)


def distances(point: Tensor, x: Tensor, norm: str) -> Tensor:
    """How far every sample lies from x, in float64."""
    return torch.linalg.vector_norm((point.double() - x.double()).flatten(1), _P[norm], dim=1)


def inside(point: Tensor, x: Tensor, eps: float, norm: str) -> None:
    """AssertionError unless every sample lies in the ball and in the box [0, 1], up to rounding."""
    far = distances(point, x, norm)
    assert bool((far <= eps * (1 + 1e-4) + 1e-6).all()), f"norm {far.max().item():.6g} beyond eps {eps:.6g}"
    assert bool(((point >= 0) & (point <= 1)).all()), "outside the box"
