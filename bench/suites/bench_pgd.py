"""Row 7 and, on a CPU, row 11: PGD-10 end to end, against the textbook loop and the other libraries, everyone plain, in
channels_last, and with a compiled model (:mod:`bench.peers.attackers`).

"model alone" is the floor: as many forward passes and input gradients, and nothing else. Random images, a randomly
initialized network, labels its own predictions; ``success`` is the share of images whose prediction the attack changes,
``loss`` the mean cross-entropy it reaches, ``gain`` its rise over that of the images as they are, as a share of the
textbook loop's. The radius is small enough that not every image falls, so that a weaker attack shows: ``p_as_strong``
is the chance that one as strong as the textbook loop does no better on these images.
"""

import math
import statistics
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contests.contest import AGAIN, OURS, Contest
from bench.contests.machine import has_bf16
from bench.peers import attackers, eager
from bench.peers.attackers import ALONE, TEXTBOOK, Problem
from bench.suites.checks import inside
from bench.suites.entries import clock, record
from bench.suites.inputs import rand
from bench.suites.networks import NETWORKS, random_network

ROW, TITLE = 7, "PGD-10"
STEPS = 10
FINAL_SECONDS = 150.0
"""On a CPU, where an attack takes a second and its time varies by a tenth, for the best variant of everyone."""
WHO = (*map(str, attackers.roster(graph=True, compile=True)), AGAIN)


@dataclass(frozen=True)
class Case:
    """``compile``: also with a compiled model, which takes a while to compile for each batch size."""

    network: str
    batch: int
    precision: str
    compile: bool = False

    def __str__(self) -> str:
        size = NETWORKS[self.network].size
        return f"{self.network} {self.batch}x3x{size}x{size} {self.precision}"


def cases(device: torch.device) -> list[Case]:
    """The most important first: there may be no time for the last ones."""
    if device.type == "cpu":
        precisions = ("fp32", "bf16") if has_bf16(device) else ("fp32",)
        return [
            *(Case("small_cnn", 128, precision, compile=True) for precision in precisions),
            *(Case("preact_resnet18", 8, precision, compile=True) for precision in precisions),
            *(Case("small_cnn", batch, "fp32", compile=True) for batch in (16, 64)),
            *(Case("preact_resnet18", batch, "fp32") for batch in (2, 32)),
            Case("small_cnn", 256, "fp32", compile=True),
        ]
    precisions = ("tf32", "bf16", "fp32")
    return [
        *(Case("preact_resnet18", 128, precision, compile=True) for precision in precisions),
        *(Case("preact_resnet18", batch, "tf32") for batch in (16, 1024, 32, 64, 256, 512)),
        *(Case("wide_resnet_28_10", 128, precision) for precision in precisions),
        *(Case("resnet50", 64, precision) for precision in precisions),
        *(Case("vit_b_16", 64, precision) for precision in precisions),
        *(Case("small_cnn", batch, "tf32") for batch in (128, 1024)),
        *(Case("preact_resnet18", batch, "bf16") for batch in (16, 1024, 64, 256, 512)),
        *(Case(name, 64, "bf16", compile=True) for name in ("resnet50", "vit_b_16")),
        *(Case(name, batch, "bf16") for name in ("wide_resnet_28_10", "resnet50", "vit_b_16") for batch in (16, 256)),
    ]


def contest(case: Case, device: torch.device) -> Contest:
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 32  # of all contenders together, who may ask for gradients or not
    about = NETWORKS[case.network]
    model, step = random_network(about, case.precision, device), about.eps / 4

    def inputs(i: int) -> tuple[Tensor, Tensor]:
        x = rand((case.batch, 3, about.size, about.size), device, i)
        with torch.no_grad():
            return x, model(x).argmax(1)

    problem = Problem(model, *inputs(0), about.classes, about.eps, step, STEPS)
    torch.manual_seed(1)
    textbook, loss = outcome_of(model, eager.pgd(model, problem.x, problem.y, about.eps, step, STEPS), problem.y)
    clean = outcome_of(model, problem.x, problem.y)[1]

    def check(name: str, x_adv: Tensor, untouched: tuple[Tensor, Tensor]) -> dict[str, float] | None:
        if attackers.parse(name).attacker == ALONE:
            return None
        x, y = untouched
        inside(x_adv, x, about.eps, "linf")
        fooled, reached = outcome_of(model, x_adv, y)
        if name == OURS:
            assert reached > 0.98 * loss, f"weaker than the textbook loop: loss {reached}, there {loss}"
        strength = {"p_as_strong": sign_test(fooled, textbook), "gain": (reached - clean) / (loss - clean)}
        return {"success": fooled.float().mean().item(), "loss": reached, **strength}

    cuda = device.type == "cuda"
    missing = {}
    if not cuda:
        missing["everyone with graph"] = "CUDA only"
    if not case.compile:
        missing["everyone with compile"] = "not tried in this case: compiling the network takes longer than the rest"
    contenders = attackers.attacks(attackers.roster(cuda, case.compile), problem)
    if cuda:
        return Contest(inputs, contenders, check, missing, seconds=8.0, most_sets=1)
    return Contest(inputs, contenders, check, missing, seconds=FINAL_SECONDS, finalists=finalists, most_sets=1)


def finalists(times: dict[str, list[float]]) -> set[str]:
    """Ours and the textbook loop as they are called, ours once more, and everyone's fastest variant so far."""
    found = {name: name for name in (OURS, AGAIN, TEXTBOOK)}
    for name in sorted(times, key=lambda name: statistics.median(times[name])):
        found.setdefault(f"{attackers.parse(name).attacker}, best", name)
    return set(found.values())


def outcome_of(model: nn.Module, x_adv: Tensor, y: Tensor) -> tuple[Tensor, float]:
    """Which predictions changed, and the mean loss reached."""
    with torch.no_grad():
        logits = model(x_adv)
    return logits.argmax(1) != y, F.cross_entropy(logits, y).item()


def sign_test(fooled: Tensor, textbook: Tensor) -> float:
    """How likely an attack as strong as the textbook one fools at most that many of the images that only one of both
    fools: of these, each has even chances."""
    gained, lost = int((fooled & ~textbook).sum()), int((textbook & ~fooled).sum())
    return sum(math.comb(gained + lost, k) for k in range(gained + 1)) / 2 ** (gained + lost)


@pytest.mark.benchmark(timer=clock)
def test_pgd(benchmark, outcome, who):
    record(benchmark, outcome, who)
