"""Functions with faults of every kind that the fuzzer must find, and a table of them."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor

from . import judge
from .calls import Call


def leaves_the_ball(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    return (x + 1.001 * eps + 1e-3).clamp(lower, upper)


def leaves_the_box(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    return x + (upper + 1e-3 - x.amax())


def writes_its_input(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    return x.mul_(1.0 + 1e-6).clone()


def writes_and_refuses(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    x.add_(1)
    raise ValueError("x is refused")


def raises(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    return [x][1]


def says_nothing(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    raise ValueError


def crashes(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    os.abort()


def hangs(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    while True:
        pass


def makes_nan(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    return x * torch.nan


def draws(x: Tensor, eps: float, lower: float, upper: float) -> Tensor:
    torch.rand(())
    return x.clone()


FAULTS = {
    leaves_the_ball: "left the ball",
    leaves_the_box: "left the box by a rounding",
    writes_its_input: "wrote x",
    writes_and_refuses: "wrote x",
    raises: "raised IndexError",
    says_nothing: "raised without a message",
    crashes: "crash: SIGABRT",
    hangs: "hang",
    makes_nan: "is not finite",
    draws: "drew from torch's generator",
}
"""What is found of each."""


def _call(fault: Callable[..., Tensor]) -> Call:
    rare = fault in (crashes, hangs)  # each costs a new process
    function = f"__import__({__name__!r}, fromlist=['']).{fault.__name__}"
    return Call(function, "x:image eps:number lower:low upper:high", judge.start, weight=0.1 if rare else 1.0)


CALLS = (*map(_call, FAULTS), Call("fastat.certificate", "n:points r:number", judge.confidence))
"""The last one keeps its promises."""
