"""Row 7: PGD-10 end to end, against the textbook loop, the loop with a compiled model, and the other libraries.

"model alone" is the floor: as many forward passes and input gradients, and nothing else. Random images, a randomly
initialized network, labels its own predictions; ``success`` is the share of images whose prediction the attack changes,
``loss`` the mean cross-entropy it reaches. The radius is small enough that not every image falls.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastat
from bench import eager, peers
from bench.contest import OURS, Contest, NotHere, inside, reason
from bench.entries import clock, record
from bench.networks import random_network
from bench.timing import rand

Attack = peers.Attack
ROW, TITLE = 7, "PGD-10"
LOOPS = ("ours", "ours again", "ours, compiled model", "eager", "torch.compile")
ALONE = ("model alone", "model alone, compiled", "model alone, captured")
WHO = (*LOOPS, *peers.PEERS, *ALONE)
STEPS = 10


@dataclass(frozen=True)
class Case:
    network: str
    batch: int
    precision: str
    eps: float
    compile: bool = True

    def __str__(self) -> str:
        return f"{self.network} {self.batch}x3x32x32 {self.precision}"


def cases(device: torch.device) -> list[Case]:
    if device.type == "cpu":
        return [
            Case("small_cnn", 128, "fp32", 0.5 / 255),
            Case("preact_resnet18", 8, "fp32", 0.2 / 255, compile=False),
        ]
    precisions = {"bf16": True, "default (TF32 convolutions)": True, "fp32 strict": False}
    return [Case("preact_resnet18", 128, name, 0.2 / 255, compile) for name, compile in precisions.items()]


def contest(case: Case, device: torch.device) -> Contest:
    torch._dynamo.reset()
    model, step = random_network(case.network, case.precision, device), case.eps / 4

    def inputs(i: int) -> tuple[Tensor, Tensor]:
        x = rand((case.batch, 3, 32, 32), device, i)
        if case.precision == "bf16":
            x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            return x, model(x).argmax(1)

    def check(name: str, x_adv: Tensor, untouched: tuple[Tensor, Tensor]) -> dict[str, float] | None:
        x, y = untouched
        if name in ALONE:
            return None
        inside(x_adv, x, case.eps, float("inf"))
        facts = strength(model, x_adv, y)
        if name == OURS:
            textbook = strength(model, eager.pgd(model, x, y, case.eps, step, STEPS), y)
            assert facts["loss"] > 0.98 * textbook["loss"], f"weaker than the textbook loop: {facts}, {textbook}"
        return facts

    contenders, missing = {}, {}
    contenders["ours"] = lambda x, y: fastat.pgd(model, x, y, case.eps, step, STEPS, seed=0)
    contenders["eager"] = lambda x, y: eager.pgd(model, x, y, case.eps, step, STEPS)
    contenders["model alone"] = alone(model)
    if case.compile:
        fast = torch.compile(model, dynamic=False)
        contenders["ours, compiled model"] = lambda x, y: fastat.pgd(fast, x, y, case.eps, step, STEPS, seed=0)
        contenders["torch.compile"] = frozen(model, lambda x, y: eager.pgd(fast, x, y, case.eps, step, STEPS))
        contenders["model alone, compiled"] = frozen(model, alone(fast))
    else:
        why = "not tried in this case: compiling the network takes longer than the rest of the row"
        missing = dict.fromkeys(("ours, compiled model", "torch.compile", "model alone, compiled"), why)
    if device.type == "cuda":
        contenders["model alone, captured"] = captured(alone(model), inputs(0))
    else:
        missing["model alone, captured"] = "CUDA only"
    for name in peers.PEERS:
        try:
            contenders[name] = peers.ready(name, model, case.eps, step, STEPS)
        except (NotHere, RuntimeError, TypeError, ValueError) as error:
            missing[name] = reason(error)
    return Contest(inputs, contenders, check, missing, seconds=8.0, most_sets=1)


def strength(model: nn.Module, x_adv: Tensor, y: Tensor) -> dict[str, float]:
    """How often the prediction changed, and the loss reached."""
    with torch.no_grad():
        logits = model(x_adv)
    return {"success": (logits.argmax(1) != y).float().mean().item(), "loss": F.cross_entropy(logits, y).item()}


def alone(model: Callable[[Tensor], Tensor]) -> Attack:
    """The model's share of an attack: forward passes and gradients to the input."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(STEPS):
            leaf = x.detach().requires_grad_()
            logits = model(leaf)
            (grad,) = torch.autograd.grad(logits, leaf, torch.ones_like(logits))
        return grad

    return run


def frozen(model: nn.Module, run: Attack) -> Attack:
    """As a careful user compiles: without parameter gradients, which a compiled model computes although nobody asks."""

    def careful(x: Tensor, y: Tensor) -> Tensor:
        model.requires_grad_(False)
        try:
            return run(x, y)
        finally:
            model.requires_grad_(True)

    return careful


def captured(run: Attack, example: tuple[Tensor, Tensor]) -> Attack:
    """A CUDA graph of the run on copies of the inputs."""
    inputs = tuple(t.clone() for t in example)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run(*inputs)

    def replay(x: Tensor, y: Tensor) -> Tensor:
        inputs[0].copy_(x)
        graph.replay()
        return result

    return replay


@pytest.mark.benchmark(timer=clock)
def test_pgd(benchmark, outcome, who):
    record(benchmark, outcome, who)
