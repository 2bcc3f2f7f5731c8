"""Warnings of what makes an attack weak without failing, each of them once for a line that calls it."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from fastat.models import logits_of
from fastat.support.threat import Norm

_SKIPPED = tuple(
    os.path.dirname(os.path.abspath(file)) + os.sep for file in (os.path.dirname(__file__), torch.__file__)
)
_FEW = 8
"""Numbers in [0, 1] that may be logits by chance."""


class WeakAttackWarning(UserWarning):
    """The attack may be weaker than it looks: a robust accuracy that it leaves can be too high.

    Python's filters decide what happens, as with every warning; by default each kind is shown once for each line of
    code that calls the attack. ``warnings.simplefilter("error", fastat.WeakAttackWarning)`` makes errors of them.
    """


@dataclass(frozen=True)
class Site:
    """A line of code that calls the library, and what Python has noted of warnings in its file."""

    file: str
    line: int
    module: str
    shown: dict[Any, Any]


def calling_line() -> Site:
    """The innermost one outside of this library and of torch."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_SKIPPED) and frame.f_back is not None:
        frame = frame.f_back
    shown = frame.f_globals.setdefault("__warningregistry__", {})
    module = frame.f_globals.get("__name__") or "<unknown>"
    return Site(frame.f_code.co_filename, frame.f_lineno, module, shown)


def warn(what: str, more: str, site: Site | None = None) -> None:
    """A warning at the line that led here, or at another. ``what`` tells its kind: it is the same each time, while
    ``more`` may have numbers in it."""
    site = site or calling_line()
    text = f"{what}: {more}"
    for key in list(site.shown):
        if isinstance(key, tuple) and key[1:] == (WeakAttackWarning, site.line) and str(key[0]).startswith(what):
            site.shown[text, WeakAttackWarning, site.line] = True  # as if it had been shown with these numbers
    warnings.warn_explicit(text, WeakAttackWarning, site.file, site.line, site.module, site.shown)


Doubts = tuple[Tensor, Tensor]
"""Which samples nothing moves, bool ``[B]``; whether the output looks like probabilities, 0-d."""


def without_gradient(grad: Tensor) -> Tensor:
    """bool ``[B]``: samples whose gradient has no entry that moves anything, all of them zero or NaN."""
    return ~(grad.abs() > 0).flatten(1).any(1)


def like_probabilities(output: Any, labels: Tensor | None, each: bool = False) -> Tensor:
    """bool, 0-d: whether no number is negative and rows sum to one, as after a softmax; of single numbers, or with
    ``each`` number by number, whether several lie in [0, 1] for labels of both kinds, as after a sigmoid."""
    rows = logits_of(output).detach().float()
    rows = rows.unsqueeze(1) if rows.dim() == 1 else rows
    positive = (rows >= 0).all()
    if rows.shape[1] > 1 and not each:
        return positive & ((rows.sum(1) - 1).abs() < 1e-2).all()
    if rows.numel() < _FEW or labels is None:
        return torch.zeros_like(positive)
    return positive & (rows <= 1).all() & (labels.amax() != labels.amin())


_waiting: deque[tuple[Tensor, Site]] = deque(maxlen=64)
"""What was found on GPUs and not read yet: that would wait for them."""


def report(doubts: Doubts) -> None:
    """Warns of what is found: at once, or on CUDA when the next attack reads back from that device, or at the end."""
    still, probable = doubts
    if not _waits(still):
        count = int(still.sum())
        if count > 0 or bool(probable):
            tell((count, bool(probable), len(still)), calling_line())
        return
    found = torch.stack([still.sum().double(), probable.double(), still.new_full((), len(still), dtype=torch.float64)])
    _waiting.append((found, calling_line()))


def _waits(t: Tensor) -> bool:
    """Whether to read it is to wait for the device."""
    return t.is_cuda


def waiting_on(device: torch.device) -> list[tuple[Tensor, Site]]:
    """Takes what was found on the device and waits to be read: numbers for :func:`tell`, and where they are from."""
    taken = [_waiting.popleft() for _ in range(len(_waiting))]
    _waiting.extend(entry for entry in taken if entry[0].device != device)
    return [entry for entry in taken if entry[0].device == device]


def tell_all() -> None:
    """Warns of all that waits to be read."""
    while _waiting:
        found, site = _waiting.popleft()
        tell(found.tolist(), site)


@atexit.register
def _at_exit() -> None:
    with suppress(RuntimeError):  # the device may be gone
        tell_all()


def tell(found: Sequence[float], site: Site) -> None:
    still, probable, of = int(found[0]), bool(found[1]), int(found[2])
    if probable:
        warn(
            "the model's outputs look like probabilities",
            "they lie in [0, 1], and rows over several classes sum to one, but the loss takes logits, whose gradient a "
            "softmax or a sigmoid makes vanish where it is sure. Attack the model without it; of probabilities that "
            "are averages their logits, lambda x: model(x).log(), or of yes and no lambda x: model(x).logit()",
            site,
        )
    elif still:
        warn(
            "samples without a gradient",
            f"for {still} of {of} the gradient of the loss is zero or NaN in every entry, so that no step moves them: "
            "if they are not won already, they look robust without having been attacked. Where float32 loses the "
            "gradient, run the model in float64, model.double() and x.double(); a loss that is flat there, as a hinge "
            "is, needs another ('ce', 'margin')",
            site,
        )


def tell_radius(excess: float, eps: float, norm: Norm) -> None:
    """Warns of a radius ``eps`` that is larger than the box is wide, by ``excess``."""
    if excess > 0:
        warn(
            "eps is larger than the box",
            f"inputs lie within {eps - excess:g} of each other in {norm}, less than eps {eps:g}. If pixels in [0, 1] "
            "are meant, a radius in the unit of 8-bit pixels is to be divided by 255: eps=8/255",
        )


def check_modes(running: Sequence[nn.Module], averaged: bool) -> None:
    """Warns of layers in train mode that make another network of the model than the one that will be used; not of those
    that draw at random where gradients are averaged over draws."""
    found = [module for module in running if module.training]
    batch_norm = any(isinstance(m, _BatchNorm) for m in found)
    drawing = not averaged and any(map(_drops, found))
    if batch_norm or drawing:
        layers = " and ".join(["batch norm"] * batch_norm + ["dropout"] * drawing)
        does = " and ".join(["normalizes by the batch"] * batch_norm + ["draws at random"] * drawing)
        warn(
            "the model is in train mode",
            f"{layers} {does}, so that the attack is on another network than the one that predicts later. Call "
            "model.eval() first; where the attack is a part of training, pass training=True",
        )


def _drops(module: nn.Module) -> bool:
    """Whether it leaves something out at random: dropout, or stochastic depth by the names it has in libraries."""
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return (
        type(module).__name__ in ("StochasticDepth", "DropPath")
        and (getattr(module, "p", None) or getattr(module, "drop_prob", None) or 0) > 0
    )
