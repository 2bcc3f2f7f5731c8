"""Row 4: loss and gradient of the logits in one launch against autograd, and against one compiled graph of both."""

from dataclasses import dataclass

import pytest
import torch

from bench.contests.contest import OURS, Contest, compiled
from bench.peers import eager
from bench.suites.checks import close
from bench.suites.entries import clock, record
from bench.suites.inputs import labels, randn
from fastat.kernels import ops, reference

ROW, TITLE = 4, "attack loss"
WHO = ("ours", "ours again", "eager", "torch.compile")


@dataclass(frozen=True)
class Case:
    kind: str
    rows: int
    classes: int
    captured: bool = False
    compile: bool = True

    def __str__(self) -> str:
        return f"{self.kind} {self.rows}x{self.classes}" + (" captured" if self.captured else "")


def cases(device: torch.device) -> list[Case]:
    if device.type == "cpu":
        return [
            Case("ce", 1024, 10), Case("ce", 1024, 100), Case("ce", 1024, 1000), Case("dlr", 1024, 10),
            Case("log_odds", 1024, 10), Case("log_odds", 1024, 1000), Case("bce", 1024, 100),
        ]  # fmt: skip
    return [
        *(Case("ce", 1024, classes, captured) for classes in (10, 100, 1000) for captured in (False, True)),
        *(Case(kind, 1024, 10, captured=True, compile=False) for kind in ("log_odds", "bce", "margin", "dlr", "kl")),
        Case("ce", 65_536, 1000), Case("ce", 256, 100_000, compile=False),
    ]  # fmt: skip


def contest(case: Case, device: torch.device) -> Contest:
    shape = (case.rows, case.classes)
    kl = case.kind == "kl"

    def inputs(i: int):
        y = labels(case.rows, case.classes, device, i)
        if case.kind == "bce":
            y = (randn(shape, device, 3 * i) > 0).float()
        clean = 3 * randn(shape, device, 2 * i)
        return clean, y, (clean + randn(shape, device, 2 * i + 1) if kl else None)

    def check(name, result, untouched):
        logits, y, target = untouched
        exact = reference.attack_loss(logits.double(), y, case.kind, reference=target.double() if kl else None)
        tolerance = 1e-6 if name == OURS else 1e-4  # dlr divides by a difference of logits
        for actual, expected in zip(result, exact, strict=True):
            close(actual, expected, atol=tolerance, rtol=tolerance)

    contenders = {
        "ours": lambda logits, y, target: ops.attack_loss(logits, y, case.kind, reference=target),
        "eager": lambda logits, y, target: eager.attack_loss(logits, y, case.kind, reference=target),
    }
    missing = {}
    if case.compile:
        contenders["torch.compile"] = compiled(eager.loss_and_gradient(case.kind))
    else:
        missing["torch.compile"] = "not tried in this case: it is in the ones of ce"
    return Contest(
        inputs,
        contenders,
        check,
        missing,
        bytes=(3 if kl else 2) * 4 * case.rows * case.classes,
        captured=case.captured,
    )


@pytest.mark.benchmark(timer=clock)
def test_attack_loss(benchmark, outcome, who):
    record(benchmark, outcome, who)
