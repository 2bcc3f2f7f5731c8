"""Row 3: the keyed random start against torch's own generator, eager and compiled.

Ours gives every sample numbers that depend on its id alone; the rivals draw from one stream.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from bench.contests.contest import OURS, Contest, compiled
from bench.peers import eager
from bench.suites.checks import close, distances, inside
from bench.suites.entries import clock, record
from bench.suites.inputs import rand
from fastat.kernels import ops, reference

ROW, TITLE = 3, "random start"
WHO = ("ours", "ours again", "eager", "torch.compile")
EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}


@dataclass(frozen=True)
class Case:
    norm: str
    shape: tuple[int, ...]
    channels_last: bool = False
    captured: bool = False

    def __str__(self) -> str:
        notes = (" channels last" if self.channels_last else "") + (" captured" if self.captured else "")
        return f"{self.norm} " + "x".join(map(str, self.shape)) + notes


def cases(device: torch.device) -> list[Case]:
    small = (128, 3, 32, 32)
    if device.type == "cpu":
        return [*(Case(norm, small) for norm in EPS), Case("linf", (64, 3, 224, 224))]
    large = (20_000, 3, 32, 32)
    return [
        Case("linf", small), *(Case(norm, small, captured=True) for norm in EPS), *(Case(norm, large) for norm in EPS),
        Case("linf", large, channels_last=True),
    ]  # fmt: skip


def contest(case: Case, device: torch.device) -> Contest:
    eps = EPS[case.norm]
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    seed = torch.tensor(7, device=device)

    def inputs(i: int):
        return (rand(case.shape, device, i).contiguous(memory_format=layout),)

    def check(name, result, untouched):
        (x,) = untouched
        inside(result, x, eps, case.norm)
        # the box may cut a good part off
        assert distances(result, x, case.norm).min() > 0.4 * eps, "the start hardly leaves x"
        if name == OURS:
            some = slice(0, 64)
            close(result[some], reference.random_start(x[some], eps, case.norm, seed=7), atol=1e-6)

    return Contest(
        inputs,
        {
            "ours": lambda x: ops.random_start(x, eps, case.norm, seed),
            "eager": lambda x: eager.random_start(x, eps, case.norm),
            "torch.compile": compiled(lambda x: eager.random_start(x, eps, case.norm)),
        },
        check,
        bytes=8 * math.prod(case.shape),
        captured=case.captured,
    )


@pytest.mark.benchmark(timer=clock)
def test_random_start(benchmark, outcome, who):
    record(benchmark, outcome, who)
