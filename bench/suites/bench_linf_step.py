"""Row 1: the linf step, in place, against the textbook expression, its in-place form and torch.compile."""

import math
from dataclasses import dataclass

import pytest
import torch

from bench.contests.contest import OURS, Contest, compiled
from bench.peers import eager
from bench.suites.checks import close, inside
from bench.suites.entries import clock, record
from bench.suites.inputs import rand, randn
from fastat.kernels import ops, reference

ROW, TITLE = 1, "linf step"
WHO = ("ours", "ours again", "eager", "eager in place", "torch.compile")
EPS, STEP = 8 / 255, 2 / 255


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    captured: bool = False

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return "x".join(map(str, self.shape)) + f" {dtype}" + (" captured" if self.captured else "")


def cases(device: torch.device) -> list[Case]:
    if device.type == "cpu":
        return [Case((128, 3, 32, 32)), Case((64, 3, 224, 224))]
    large = (448, 3, 224, 224)  # 67 million elements
    return [
        Case((128, 3, 32, 32)), Case((128, 3, 32, 32), captured=True), Case(large), Case(large, torch.bfloat16),
    ]  # fmt: skip


def contest(case: Case, device: torch.device) -> Contest:
    def inputs(i: int):
        x, noise, grad = (make(case.shape, device, 3 * i + k) for k, make in enumerate((rand, randn, randn)))
        x_adv = (x + EPS * noise.clamp(-1, 1)).clamp(0, 1)
        return tuple(t.to(case.dtype) for t in (x_adv, grad, x))

    def check(name, result, untouched):
        x_adv, grad, x = untouched
        if name == OURS:
            assert torch.equal(result, reference.linf_step_(x_adv.clone(), grad, x, STEP, EPS)), "not the twin's bits"
            inside(result, x, EPS, "linf")
        else:  # half-precision expressions round at every operation
            close(
                result, reference.linf_step_(x_adv.double(), grad.double(), x.double(), STEP, EPS), 4 * ulp(case.dtype)
            )

    return Contest(
        inputs,
        {
            "ours": lambda x_adv, grad, x: ops.linf_step_(x_adv, grad, x, STEP, EPS),
            "eager": lambda x_adv, grad, x: eager.linf_step(x_adv, grad, x, STEP, EPS),
            "eager in place": lambda x_adv, grad, x: eager.linf_step_in_place(x_adv, grad, x, STEP, EPS),
            "torch.compile": compiled(lambda x_adv, grad, x: x_adv.copy_(eager.linf_step(x_adv, grad, x, STEP, EPS))),
        },
        check,
        in_place=True,
        bytes=4 * math.prod(case.shape) * case.dtype.itemsize,
        captured=case.captured,
    )


def ulp(dtype: torch.dtype) -> float:
    """Spacing of the numbers just below one."""
    return torch.finfo(dtype).eps / 2


@pytest.mark.benchmark(timer=clock)
def test_linf_step(benchmark, outcome, who):
    record(benchmark, outcome, who)
