"""The compiled ops behind the training objectives: fake kernels and autograd formulas. Their users are in objectives/.

As in ``fastat.ops``, arithmetic that decides something is in float64 and nothing is read back from a device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastat.kernels._extension import _C
from fastat.kernels.arguments import compute_dtype

_ops = torch.ops.fastat
holistic_of_array: Callable[[NDArray[np.float64], float, float, int], tuple[NDArray[np.float64], float]] = _C.holistic
"""``(losses, alpha, r, order) -> (weights, value)`` of numpy arrays, without a graph."""
holistic = _ops.holistic
benign_cross_entropy = _ops.benign_cross_entropy
scale_rows = _ops.scale_rows
contrast_rows_ = _ops.contrast_rows_
contrast_gradient_ = _ops.contrast_gradient_


@torch.library.register_fake("fastat::holistic")
def _holistic_fake(losses: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return torch.empty_like(losses), losses.new_empty(())


def _save_weights(ctx: Any, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[0])
    ctx.mark_non_differentiable(output[0])


def _holistic_backward(ctx: Any, _: object, grad_value: Tensor) -> tuple[Tensor | None, ...]:
    refuse_second_derivatives()
    return grad_value * ctx.saved_tensors[0], None, None, None, None, None


torch.library.register_autograd("fastat::holistic", _holistic_backward, setup_context=_save_weights)


@torch.library.register_fake("fastat::benign_cross_entropy")
def _benign_cross_entropy_fake(logits: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    loss = logits.new_empty(logits.shape[0], dtype=compute_dtype(logits))
    return loss, torch.empty_like(logits), torch.empty_like(loss)


@torch.library.register_fake("fastat::scale_rows")
def _scale_rows_fake(rows: Tensor, *_: object) -> Tensor:
    return torch.empty_like(rows)


def _nothing(*_: object) -> None:
    """The fake kernel of an op that only writes its arguments, here buffers that nobody else has seen."""


for _name in ("contrast_rows_", "contrast_gradient_"):
    torch.library.register_fake(f"fastat::{_name}", _nothing)


def refuse_second_derivatives() -> None:
    """The weights of an objective are constants for autograd, so a second derivative would be wrong, not just slow."""
    if torch.is_grad_enabled():
        raise RuntimeError("this objective is differentiable once: call backward or autograd.grad without create_graph")
