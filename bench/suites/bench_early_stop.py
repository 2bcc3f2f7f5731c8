"""Row 10: evaluating an undefended model, where samples already misclassified leave the batch.

PGD-50 with early_stop against the full run, on a small network trained on real digits without a defence. What early
stopping reports is the robust accuracy over all iterates, checked against a plain loop that looks at every iterate.
"""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import fastat
from bench.contests.contest import OURS, Contender, Contest
from bench.peers import eager
from bench.suites.entries import clock, record
from bench.suites.networks import undefended_digits

ROW, TITLE = 10, "evaluation, undefended"
WHO = ("ours", "ours again", "ours, graph", "ours, full run", "ours, full run, graph", "eager")
EPS, STEPS = 0.2, 50


@dataclass(frozen=True)
class Case:
    images: int

    def __str__(self) -> str:
        return f"small_cnn digits {self.images}x1x8x8, PGD-{STEPS}"


def cases(device: torch.device) -> list[Case]:
    return [Case(500)]


def contest(case: Case, device: torch.device) -> Contest:
    model, x, y = undefended_digits(device)
    x, y = x[: case.images], y[: case.images]
    step = 2.5 * EPS / STEPS

    def check(name: str, x_adv: Tensor, untouched: tuple[Tensor, Tensor]) -> dict[str, float]:
        with torch.no_grad():
            robust = (model(x_adv).argmax(1) == y).float().mean().item()
        facts = {"robust accuracy": robust, "success": 1 - robust}
        if name == OURS:
            every = over_all_iterates(model, x, y, fastat.random_start(x, EPS, "linf", seed=0), step)
            facts["robust accuracy, plain loop over all iterates"] = every
            assert abs(robust - every) <= 3 / case.images, f"robust accuracy {robust}, by a plain loop {every}"
        return facts

    def ours(early_stop: bool, graph: bool) -> Contender:
        return lambda x, y: fastat.pgd(model, x, y, EPS, step, STEPS, seed=0, early_stop=early_stop, graph=graph)

    contenders = {
        "ours": ours(early_stop=True, graph=False),
        "ours, full run": ours(early_stop=False, graph=False),
        "eager": lambda x, y: eager.pgd(model, x, y, EPS, step, STEPS),
    }
    missing = {}
    if device.type == "cuda":
        contenders["ours, graph"] = ours(early_stop=True, graph=True)
        contenders["ours, full run, graph"] = ours(early_stop=False, graph=True)
    else:
        missing["everyone with graph"] = "CUDA only"
    return Contest(
        lambda i: (x, y),
        contenders,
        check,
        missing,
        seconds=3.0,
        most_sets=1,
    )


def over_all_iterates(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, step: float) -> float:
    """Share of images that every iterate of the textbook loop leaves correctly classified, the start included."""
    robust = torch.ones_like(y, dtype=torch.bool)
    for i in range(STEPS + 1):
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        robust &= logits.argmax(1) == y
        if i < STEPS:
            (grad,) = torch.autograd.grad(nn.functional.cross_entropy(logits, y, reduction="sum"), x_adv)
            x_adv = eager.linf_step(x_adv.detach(), grad, x, step, EPS)
    return robust.float().mean().item()


@pytest.mark.benchmark(timer=clock)
def test_early_stop(benchmark, outcome, who):
    record(benchmark, outcome, who)
