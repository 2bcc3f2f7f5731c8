"""Warnings of what makes an attack weak without failing, each of them once for a line that calls it."""

from __future__ import annotations

import math
import os
import sys
import warnings
import weakref
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fastat.kernels.sizes import Size
from fastat.models import Model, modules_in_sight
from fastat.support.threat import Norm

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_unread: weakref.WeakKeyDictionary[Model, Tensor] = weakref.WeakKeyDictionary()  # of calls on CUDA, by model


class WeakAttackWarning(UserWarning):
    """The attack may be weaker than it looks: a robust accuracy that it leaves can be too high.

    Python's filters decide what happens, as with every warning; by default each kind is shown once for each line of
    code that calls the attack. ``warnings.simplefilter("error", fastat.WeakAttackWarning)`` makes errors of them.
    """


Doubts = tuple[Tensor, Tensor]
"""Which samples have a gradient that moves nothing, bool ``[B]``; whether the logits look like probabilities, 0-d."""


def warn(what: str, more: str) -> None:
    """A warning at the line outside of this library that led here. ``what`` tells its kind: it is the same each time,
    while ``more`` may have numbers in it."""
    frame = _caller()
    scope, line = frame.f_globals, frame.f_lineno
    shown = scope.setdefault("__warningregistry__", {})  # where Python itself notes what it has shown
    text = f"{what}: {more}"
    for key in list(shown):
        if isinstance(key, tuple) and key[1:] == (WeakAttackWarning, line) and str(key[0]).startswith(what):
            shown[text, WeakAttackWarning, line] = True
    name = scope.get("__name__") or "<unknown>"
    warnings.warn_explicit(text, WeakAttackWarning, frame.f_code.co_filename, line, name, shown)


def _caller() -> FrameType:
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def doubts_of(logits: Tensor | None, grad: Tensor) -> Doubts:
    """Of the first step, which without a gradient is like all later ones. Reads nothing back.

    Args:
        logits: ``[B, C]``; None where the output need not be logits.
    """
    moves = ((grad != 0) & grad.isfinite()).flatten(1).any(1)
    if logits is None or logits.shape[1] < 2:
        return ~moves, torch.zeros((), dtype=torch.bool, device=grad.device)
    rows = logits.detach().float()
    return ~moves, (rows >= 0).all() & ((rows.sum(1) - 1).abs() < 1e-2).all()


def note(model: Model, doubts: Doubts) -> None:
    """Warns of what is found; on CUDA at the next call with the model, whose read-back has room for it."""
    still, probable = doubts
    found = torch.stack([still.sum().double(), probable.double(), still.new_full((), len(still), dtype=torch.float64)])
    if _waits(found):
        with suppress(TypeError):  # no weak reference to it can be made
            _unread[model] = found
        return
    tell(found.tolist())


def _waits(t: Tensor) -> bool:
    """Whether to read it is to wait for the device."""
    return t.is_cuda


def unread(model: Model) -> Tensor | None:
    """What an earlier call with the model on CUDA has left to :func:`tell`."""
    with suppress(TypeError):
        return _unread.pop(model, None)
    return None


def settle(model: Model) -> None:
    """Warns of what the last call with the model on CUDA has left to the next one."""
    found = unread(model)
    if found is not None:
        tell(found.tolist())


def tell(found: Sequence[float]) -> None:
    still, probable, of = int(found[0]), bool(found[1]), int(found[2])
    if probable:
        warn(
            "the model's outputs look like probabilities",
            "they are not negative and each row sums to one, but the loss takes logits, whose gradient a softmax makes "
            "vanish where it is sure. Attack the model without its softmax; of probabilities that are averages, their "
            "logarithm: lambda x: model(x).log()",
        )
    elif still:
        warn(
            "samples without a gradient",
            f"for {still} of {of} the gradient of the loss is zero or not finite in every entry, so that no step moves "
            "them: they look robust without having been attacked. Where the network loses the gradient on its way "
            "back (saturated or very large activations), run it in float64: model.double(), x.double(). Where the loss "
            "does, one of one's own that is flat there say, take 'ce' or 'margin'",
        )


def check_radius(eps: Size, lower: Size, upper: Size, norm: Norm, n: int) -> None:
    """Warns of a ball of numbers that holds the whole box."""
    if isinstance(eps, Tensor) or isinstance(lower, Tensor) or isinstance(upper, Tensor):
        return
    tell_radius(eps if math.isfinite(eps) else 0.0, (upper - lower) * reach(norm, n), norm)


def reach(norm: Norm, n: int) -> float:
    """The longest way through a cube of n dimensions, by its edge."""
    return {"linf": 1.0, "l2": math.sqrt(n), "l1": float(n)}[norm]


def tell_radius(eps: float, across: float, norm: Norm) -> None:
    if eps > across:
        warn(
            "eps is larger than the box",
            f"every input lies within {across:g} of every other in {norm}, less than eps {eps:g}. If pixels in [0, 1] "
            "are meant, a radius in the unit of 8-bit pixels is to be divided by 255: eps=8/255",
        )


def check_modes(model: Model) -> None:
    """Warns of layers in train mode that make another network of the model than the one that will be used."""
    found = [module for module in modules_in_sight(model) if module.training]
    batch_norm = any(isinstance(m, _BatchNorm) for m in found)
    dropout = any(isinstance(m, _DropoutNd | nn.RReLU) and getattr(m, "p", 1) > 0 for m in found)
    if batch_norm or dropout:
        layers = " and ".join(["batch norm"] * batch_norm + ["dropout"] * dropout)
        does = " and ".join(["normalizes by the batch"] * batch_norm + ["draws at random"] * dropout)
        warn(
            "the model is in train mode",
            f"{layers} {does}, so that the attack is on another network than the one that predicts later. Call "
            "model.eval() first; where the attack is a part of training, pass training=True",
        )
