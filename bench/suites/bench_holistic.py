"""Row 5: the HR weights of a batch of losses, against the same exact solution in plain PyTorch and the cone program.

Losses are cross-entropies of random logits. Up to 65,536 of them a CPU case runs on one core, for everyone: there a
second thread costs the rivals about as much as it gains, and ours has one whatever the size. The cone program has cases
of its own: beside something a thousand times slower a call of microseconds would run from a cold cache, and in few
rounds. Where a solver fails or does not reach the value, that is its reason to be missing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import fastat
from bench.contests.contest import OURS, Contest, NotHere, compiled
from bench.peers import cone, eager
from bench.suites.entries import clock, record
from bench.suites.inputs import labels, randn
from fastat.kernels import reference

ROW, TITLE = 5, "HR weights"
NUMPY = "ours, numpy"
WHO = ("ours", "ours again", NUMPY, "eager", "torch.compile", *cone.SOLVERS)
ALPHA, R = 0.05, 0.1


@dataclass(frozen=True)
class Case:
    n: int
    order: str = "hd"
    cone: bool = False
    captured: bool = False
    compile: bool = False
    one_core: bool = False

    def __str__(self) -> str:
        where = " captured" if self.captured else ", one core" if self.one_core else ""
        return f"{self.order} N = {self.n:,}{', cone program' if self.cone else ''}{where}"


def cases(device: torch.device) -> list[Case]:
    if device.type == "cpu":
        orders = [(32, "hd"), (128, "hd"), (1024, "hd"), (128, "hr"), (1024, "hr"), (65_536, "hd")]
        return [
            *(Case(n, order, compile=order == "hd" and n in (128, 65_536), one_core=True) for n, order in orders),
            Case(1_000_000),
            *(Case(n, order, cone=True, one_core=True) for n, order in orders[:4]),
        ]
    sizes = [(128, "hd"), (1024, "hd"), (4096, "hd"), (65_536, "hd"), (1_000_000, "hd"), (1024, "hr")]
    return [
        Case(n, order, captured=captured, compile=order == "hd" and (n == 1024 or (n == 65_536 and captured)))
        for n, order in sizes
        for captured in (False, True)
    ]


def contest(case: Case, device: torch.device) -> Contest:
    def inputs(i: int):
        y = labels(case.n, 10, device, i)
        losses = F.cross_entropy(3 * randn((case.n, 10), device, i), y, reduction="none")
        return losses, losses.cpu().numpy()

    @cache
    def exact() -> torch.Tensor:
        return reference.holistic_weights(inputs(0)[0].double(), ALPHA, R, case.order)

    def check(name, result, untouched):
        if name in cone.SOLVERS:
            value, best = result[0], exact().dot(untouched[0].double()).item()
            assert abs(value - best) <= 1e-4 * best, f"value {value:.6g} where {best:.6g} is the largest"
            return
        off = (torch.as_tensor(result, device=device).double() - exact()).abs() / (exact() + 1 / case.n)
        tolerance = 1e-6 if name in (OURS, NUMPY) else 1e-4
        assert off.max() <= tolerance, f"weights off by {off.max():.1e}"

    contenders = {"ours": lambda losses, _: fastat.holistic_weights(losses, ALPHA, R, case.order)}
    rivals, missing = cone_programs(case) if case.cone else torch_rivals(case, device)
    return Contest(
        inputs,
        contenders | rivals,
        check,
        missing,
        captured=case.captured,
        seconds=3.0 if case.cone else 1.0,
        most_sets=min(16, 2048 // case.n) if case.cone else 8 if case.n > 4096 else 32,
        threads=1 if case.one_core else None,
    )


Rivals = tuple[dict[str, Callable[..., Any]], dict[str, str]]
"""By name, those of a case that can run; and why the others cannot."""


def torch_rivals(case: Case, device: torch.device) -> Rivals:
    """Plain PyTorch and its compiler; at N = 128 on a CPU also ours on an array."""
    found, missing = {}, {}
    if case.order == "hr":
        if case.captured:
            missing["eager"] = "its search for order hr reads numbers back, which a CUDA graph cannot"
        else:
            found["eager"] = lambda losses, _: eager.holistic_weights_hr(losses, ALPHA, R)
    else:
        plain = eager.holistic_weights_unread if device.type == "cuda" else eager.holistic_weights
        found["eager"] = lambda losses, _: plain(losses, ALPHA, R)
    if case.compile:
        fast = compiled(eager.holistic_weights_unread)
        found["torch.compile"] = lambda losses, _: fast(losses, ALPHA, R)
    else:
        missing["torch.compile"] = "not tried in this case: it is in order hd at two of the sizes"
    if case.n == 128 and device.type == "cpu":
        found[NUMPY] = lambda _, losses: fastat.holistic_weights(losses, ALPHA, R, case.order)
    return found, missing


def cone_programs(case: Case) -> Rivals:
    """The cone program by each solver. Not above N = 1,024, where a solve takes 0.1 to 0.3 s if it succeeds."""
    found, missing = {}, {}
    for solver in cone.SOLVERS:
        try:
            solve = cone.holistic(solver, case.n, ALPHA, R, case.order)
            found[solver] = lambda _, losses, solve=solve: solve(losses)
        except NotHere as why:
            missing[solver] = str(why)
    return found, missing


@pytest.mark.benchmark(timer=clock)
def test_holistic(benchmark, outcome, who):
    record(benchmark, outcome, who)
