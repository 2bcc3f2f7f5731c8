"""Gradients that go back through float16, where small ones vanish: scaled on their way, as torch's GradScaler does it.

The factor is a power of two, which rounds nothing. Where it carries a gradient out of float16's range, the gradient is
taken once more without it; not while a CUDA graph is recorded, which cannot decide.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SCALE = 512  # about what GradScaler starts from, for a sample of a batch of 128
OF_A_LOSS = 24
"""Operations between logits and a loss, at most."""


def half_scale(output: Tensor, before: int = 4) -> int:
    """What a gradient is to be multiplied by on its way back from this tensor; 1 unless that leads through float16.

    Seen are float16 outputs, autocast to it, and outputs that were cast from it up to so many operations before, 5
    microseconds each.
    """
    device = output.device.type
    if torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.float16:
        return _SCALE
    if output.dtype == torch.float16:
        return _SCALE
    nodes, seen = [output.grad_fn], 0
    while nodes and seen < before:
        node = nodes.pop(0)
        if node is None:
            continue
        seen += 1
        if any(getattr(taken, "dtype", None) == torch.float16 for taken in getattr(node, "_input_metadata", ())):
            return _SCALE
        nodes += [previous for previous, _ in node.next_functions]
    return 1


def directions(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """The gradients of a loss, 0-d, up to one factor above 0: zeros for an input that it does not depend on."""
    scale = half_scale(loss, OF_A_LOSS)
    again = scale != 1 and not (loss.is_cuda and torch.cuda.is_current_stream_capturing())
    found = _gradients(scale * loss if scale != 1 else loss, inputs, create_graph, again or create_graph)
    if again and not all(bool(gradient.isfinite().all()) for gradient in found):
        return _gradients(loss, inputs, create_graph, create_graph)
    return found


def _gradients(loss: Tensor, inputs: Sequence[Tensor], create_graph: bool, retain_graph: bool) -> list[Tensor]:
    return list(
        torch.autograd.grad(loss, inputs, create_graph=create_graph, retain_graph=retain_graph, materialize_grads=True)
    )
