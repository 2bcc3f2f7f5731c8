"""Running a model for an evaluation: its mode, its predictions, and how far it has come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fastat.kernels.arguments import check_dense
from fastat.models import Model, buffers_put_back, class_logits, in_eval_mode, modes_kept


@contextmanager
def shown(total: int | None, wanted: bool) -> Iterator[Callable[[int], None]]:
    """A bar that is told of images that are done, on a terminal."""
    if not wanted or not sys.stderr.isatty():
        yield lambda images: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("evaluating", total=total)
        yield lambda images: progress.advance(task, images)


@contextmanager
def eval_mode(model: Model) -> Iterator[None]:
    """Puts every module in eval mode, and back in the mode it had.

    Meanwhile cuDNN does not measure its algorithms: batches that samples leave have a new size each time.
    """
    measures = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with in_eval_mode(model):
            yield
    finally:
        torch.backends.cudnn.benchmark = measures


@contextmanager
def left_as_it_is(model: Model) -> Iterator[None]:
    """Undoes what an attack of a user's own does to the modes, the buffers and the gradients of a module."""
    if not isinstance(model, nn.Module):
        yield
        return
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    with modes_kept(model), buffers_put_back(model):
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient


@torch.no_grad()
def predict(model: Model, x: Tensor) -> Tensor:
    """The predicted classes, int64 [B], of x [B, ...].

    Raises:
        TypeError, ValueError: x is no tensor, or the model returns no logits [B, C].
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    check_dense(x, "x")
    logits = class_logits(model(x.clone()))  # its first layer may work in place
    if logits.dim() != 2 or len(logits) != len(x):
        raise ValueError(f"the model must return logits [{len(x)}, C] of classes, got {list(logits.shape)}")
    return logits.argmax(1)
