"""Row 2: the l2 and l1 steps, in place, against the textbook expressions and torch.compile."""

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

ROW, TITLE = 2, "l2 and l1 step"
WHO = ("ours", "ours again", "eager", "torch.compile")
EPS = {"l2": 0.5, "l1": 12.0}


@dataclass(frozen=True)
class Case:
    norm: str
    shape: tuple[int, ...]
    captured: bool = False
    compile: bool = True

    def __str__(self) -> str:
        return f"{self.norm} " + "x".join(map(str, self.shape)) + (" captured" if self.captured else "")

    @property
    def streamed(self) -> bool:
        """On CUDA: the sample does not fit on chip (registers for l2, shared memory for l1)."""
        return math.prod(self.shape[1:]) > {"l2": 16_384, "l1": 19_000}[self.norm]


def cases(device: torch.device) -> list[Case]:
    small, images = (128, 3, 32, 32), (16, 3, 224, 224)
    if device.type == "cpu":
        return [c for norm in EPS for c in (Case(norm, small), Case(norm, images, compile=False))]
    return [
        Case("l2", small, compile=False), Case("l2", small, captured=True), Case("l2", (20_000, 3, 32, 32)),
        Case("l2", (256, 3, 224, 224)), Case("l1", small, compile=False), Case("l1", small, captured=True),
        Case("l1", (8_192, 3, 32, 32), compile=False), Case("l1", (64, 3, 224, 224), compile=False),
    ]  # fmt: skip


def contest(case: Case, device: torch.device) -> Contest:
    eps, step = EPS[case.norm], EPS[case.norm] / 4
    ours, textbook = getattr(ops, f"{case.norm}_step_"), getattr(eager, f"{case.norm}_step")
    exact = getattr(reference, f"{case.norm}_step_")

    def inputs(i: int):
        x, grad = rand(case.shape, device, 2 * i), randn(case.shape, device, 2 * i + 1)
        x_adv = ops.random_start(x, eps, case.norm, seed=i)
        ours(x_adv, grad.roll(1, dims=-1), x, step, eps)  # a later step: the projection has work to do
        return x_adv, grad, x

    def check(name, result, untouched):
        x_adv, grad, x = untouched
        some = slice(0, 512)
        expected = exact(x_adv[some].double(), grad[some].double(), x[some].double(), step, eps)
        close(result[some], expected, atol=1e-6 if name == OURS else 1e-4)
        inside(result, x, eps, case.norm)

    contenders = {
        "ours": lambda x_adv, grad, x: ours(x_adv, grad, x, step, eps),
        "eager": lambda x_adv, grad, x: textbook(x_adv, grad, x, step, eps),
    }
    missing = {}
    if case.compile:
        contenders["torch.compile"] = compiled(lambda x_adv, grad, x: x_adv.copy_(textbook(x_adv, grad, x, step, eps)))
    else:
        missing["torch.compile"] = "not tried in this case: it is in the one beside it"
    per_element = 28 if device.type == "cuda" and case.streamed else 16
    if case.streamed and case.norm == "l1":
        per_element = 0  # some twenty passes, as many as the data ask for
    moved = per_element * math.prod(case.shape)
    return Contest(inputs, contenders, check, missing, in_place=True, bytes=moved, captured=case.captured)


@pytest.mark.benchmark(timer=clock)
def test_l2_l1_step(benchmark, outcome, who):
    record(benchmark, outcome, who)
