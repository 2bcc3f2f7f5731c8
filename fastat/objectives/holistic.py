"""Holistic robustness, HR (Bennouna, Lucas, Van Parys, "Certified Robust Neural Networks", ICML 2023).

Three budgets of robustness: the attack's eps against evasion, ``alpha`` against wrong training data, ``r`` against the
finiteness of the sample. Given the adversarial losses of a batch, the HR loss is the worst mean loss over distributions
near the empirical one:

- order "hd" (in which the paper's experiments are done): ``alpha`` of the mass is put on the worst case, then the mass
  moves within a Kullback-Leibler ball of radius ``r``;
- order "hr": first the ball, then ``alpha``.

``alpha = r = 0`` is the plain mean, that is ordinary adversarial training.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor

from fastat.kernels import objective_ops as ops
from fastat.kernels.arguments import check_data, check_integer, check_logits, check_number, class_labels
from fastat.kernels.ops import LOSS_KINDS, attack_loss
from fastat.support.distributed import Group, gathered
from fastat.support.threat import as_float

Order = Literal["hd", "hr"]
ORDERS: tuple[str, ...] = get_args(Order)

Budget = float | Tensor
"""A number, or a 0-d floating-point tensor, a constant for autograd; on CUDA it is not read back."""


class NotFiniteError(ValueError):
    """A loss is infinite or NaN, or losses are infinitely far apart. Raised on the CPU only."""


@overload
def holistic_weights(losses: Tensor, alpha: Budget, r: Budget, order: Order = ...) -> Tensor: ...
@overload
def holistic_weights(losses: np.ndarray, alpha: float, r: float, order: Order = ...) -> np.ndarray: ...
def holistic_weights(losses: Tensor | np.ndarray, alpha: Budget, r: Budget, order: Order = "hd") -> Tensor | np.ndarray:
    """The worst-case weights of a batch of losses, which sum to 1: the HR loss is ``(weights * losses).sum()``.

    Exact (no solver, no sort; csrc/core/holistic.h), for 1 to ten million losses that span at most 1e100. Losses that
    tie have equal weights. On CUDA nothing is read back, and the call can be captured in a graph; one block of threads
    works on it, which is made for batches of up to some 65,536 losses and takes its time over millions.

    Args:
        losses: ``[N]``, finite; a float32 or float64 tensor, or a numpy array.
        alpha: fraction of the data that may be wrong, in [0, 1): a number or a 0-d tensor.
        r: radius of the Kullback-Leibler ball in nats, >= 0: a number or a 0-d tensor.
        order: "hd" or "hr".

    Returns:
        Weights ``[N]`` >= 0 of the type of ``losses`` (float64 for numpy); constants for autograd.

    Raises:
        TypeError, ValueError: on wrong dtypes, shapes or devices, no losses, or budgets out of range. Values inside
            tensors are looked at on the CPU only: on CUDA a loss that is not finite, or a tensor ``alpha`` or ``r`` out
            of its range, makes all weights of the call NaN.
    """
    if isinstance(losses, np.ndarray):
        return _numpy_weights(losses, alpha, r, order)
    return _solve(losses.detach() if isinstance(losses, Tensor) else losses, alpha, r, order)[0]


def holistic_loss(
    losses: Tensor, alpha: Budget, r: Budget, order: Order = "hd", *, group: Group | None = None
) -> Tensor:
    """The HR loss of a batch of losses, with the envelope theorem's gradient: d HR / d losses = the weights.

    Args:
        losses: ``[N]``, finite, float32 or float64.
        alpha, r, order: see :func:`holistic_weights`.
        group: None for this process alone, or a process group of torch.distributed over which the batch is spread: the
            losses of all its processes are gathered (one may have more than another), every process solves the global
            problem and returns the same loss. Gradients are multiplied by the number of processes, since
            DistributedDataParallel divides the sum by it.

    Returns:
        0-d, of the dtype of ``losses``; between their mean and their maximum, increasing in ``alpha`` and ``r``.

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`holistic_weights`; a second derivative.
    """
    if group is not None:
        _check_losses(losses)
        losses = gathered(losses, group)
    return _solve(losses, alpha, r, order)[1]


def holistic_cross_entropy(
    logits: Tensor, y: Tensor, alpha: Budget, r: Budget, order: Order = "hd", *, group: Group | None = None
) -> Tensor:
    """The HR loss of the cross-entropies of a batch: weights, losses and their gradient in three launches on CUDA.

    (One for the cross-entropies and their gradient, one for the weights, one for backward; int64 labels and contiguous
    logits given.)

    Args:
        logits: ``[N, C]``, any float dtype; of the adversarial examples.
        y: integer labels ``[N]`` in [0, C).
        alpha, r, order, group: see :func:`holistic_loss`.

    Returns:
        0-d, float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`fastat.attack_loss` and :func:`holistic_weights`.
    """
    if group is not None:
        return holistic_loss(attack_loss(logits, y)[0], alpha, r, order, group=group)
    check_logits(logits)
    labels = class_labels(y, logits, "y")
    return _HolisticCrossEntropy.apply(logits, labels, alpha, r, order)


def certificate(n: int, r: float) -> float:
    """The confidence ``1 - exp(-r n)`` that the in-sample HR loss of n training points bounds the loss out of sample.

    The theorem (Bennouna, Lucas, Van Parys 2023) says ``1 - exp(-r n + O(1))``: the constant in the exponent depends on
    the problem and is left out here, so this is a rate, not a guarantee for a given n. It is about the HR loss of the
    whole training set, with the worst case over the perturbations (an attack only bounds it from below), and holds if
    at most ``alpha n`` points were tampered with. Minibatch training minimizes a mean of batch-wise HR losses instead.

    Args:
        n: number of training points, >= 1.
        r: radius of the Kullback-Leibler ball, >= 0.

    Raises:
        TypeError, ValueError: n or r is not a number in its range.
    """
    check_integer(n, "n", 1)
    return -math.expm1(-check_number(r, "r") * n)


class _HolisticCrossEntropy(torch.autograd.Function):
    """Backward is one launch: the gradient rows of the cross-entropy times weight and incoming gradient."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, y: Tensor, alpha: Budget, r: Budget, order: Order) -> Tensor:
        losses, grad = torch.ops.fastat.attack_loss(logits.detach().contiguous(), y, LOSS_KINDS.index("ce"), None, None)
        weights, value = _solve(losses, alpha, r, order)
        ctx.save_for_backward(grad, weights)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ops.refuse_second_derivatives()
        grad, weights = ctx.saved_tensors
        return ops.scale_rows(grad, weights, grads[0]), None, None, None, None


def _solve(losses: Tensor, alpha: Budget, r: Budget, order: Order) -> tuple[Tensor, Tensor]:
    """Weights and value."""
    _check_losses(losses)
    if losses.shape[0] == 0:
        raise ValueError(f"losses must be a vector of at least one, got shape {list(losses.shape)}")
    if order not in ORDERS:
        raise ValueError(f"order must be 'hd' or 'hr', got {order!r}")
    number, alpha_value = _budget(alpha, "alpha", losses)
    radius, r_value = _budget(r, "r", losses)
    weights, value = ops.holistic(losses.contiguous(), number, radius, alpha_value, r_value, ORDERS.index(order))
    if not losses.is_cuda and not torch.compiler.is_compiling() and math.isnan(value.item()):
        raise _not_finite(losses[~losses.isfinite()].tolist())
    return weights, value


def _check_losses(losses: Tensor) -> None:
    check_data(losses, "losses")
    if losses.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"losses must be float32 or float64, got {losses.dtype}")
    if losses.dim() != 1:
        raise ValueError(f"losses must be a vector, got shape {list(losses.shape)}")


def _numpy_weights(losses: np.ndarray, alpha: Budget, r: Budget, order: Order) -> np.ndarray:
    if losses.ndim != 1 or len(losses) == 0:
        raise ValueError(f"losses must be a vector of at least one, got shape {list(losses.shape)}")
    if not np.issubdtype(losses.dtype, np.floating):
        raise TypeError(f"losses must be floating-point, got {losses.dtype}")
    if order not in ORDERS:
        raise ValueError(f"order must be 'hd' or 'hr', got {order!r}")
    weights, value = ops.holistic_of_array(
        losses.astype(np.float64, copy=False), _check_budget(alpha, "alpha"), _check_budget(r, "r"), ORDERS.index(order)
    )
    if math.isnan(value):
        raise _not_finite(losses[~np.isfinite(losses)].tolist())
    return weights


def _not_finite(bad: list[float]) -> NotFiniteError:
    if bad:
        return NotFiniteError(f"losses must be finite, got {len(bad)} that are not, the first of them {bad[0]}")
    return NotFiniteError("losses must differ by a finite number: the largest less the smallest is infinite")


def _budget(value: Budget, name: str, losses: Tensor) -> tuple[float, Tensor | None]:
    """A number, or a float64 0-d tensor on the device of the losses."""
    if not isinstance(value, Tensor):
        return _check_budget(value, name), None
    if value.dim() != 0 or not value.is_floating_point():
        raise ValueError(
            f"{name} must be a number or a 0-d floating-point tensor, got {value.dtype} {list(value.shape)}"
        )
    if value.device.type == "cpu" and not torch.compiler.is_compiling():
        return _check_budget(value.item(), name), None
    if value.device not in (losses.device, torch.device("cpu")):
        raise ValueError(f"{name} must be on {losses.device}, got {value.device}")
    return 0.0, value.detach().to(losses.device, torch.float64)


def _check_budget(value: object, name: str) -> float:
    if name == "alpha" and isinstance(value, Real) and not 0 <= as_float(value) < 1:
        raise ValueError(f"alpha must be in [0, 1), got {value}")
    return check_number(value, name)
