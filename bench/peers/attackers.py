"""Who attacks in the end-to-end rows, and the levers each is given: the same for everyone, so that what is left is the
attack's own part.

A contender is an attacker with some levers pulled, named "eager" or "eager, channels_last + compile". Without a lever
an attack is called as its documentation says. With any, the parameters are frozen, as a careful user would: some
attacks compute their gradients though nobody asks, and a compiled model always does. "frozen" is that alone; ours does
it by itself. "reduce-overhead" is torch.compile with CUDA graphs of its own. The loss and the step of the textbook loop
are not compiled.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

import fastat
from bench.contests.contest import OURS
from bench.peers import eager, libraries
from fastat.attacks import attacking

Attack = libraries.Attack
TEXTBOOK, ALONE = "eager", "model alone"
ATTACKERS = (OURS, TEXTBOOK, ALONE, *libraries.PEERS)
RECORDED = (OURS, ALONE)
"""Those that can be given as one CUDA graph."""
LAYOUTS = ((), ("frozen",), ("channels_last",))
LEVERS = (*LAYOUTS, ("compile",), ("channels_last", "compile"))
ON_CUDA = ("channels_last", "reduce-overhead")


@dataclass(frozen=True)
class Problem:
    """What is to be attacked: PGD in an linf ball from a random start."""

    model: nn.Module
    x: Tensor
    y: Tensor
    classes: int
    eps: float
    step_size: float
    steps: int


@dataclass(frozen=True)
class Contender:
    """An attacker and the levers pulled for it."""

    attacker: str
    levers: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.attacker, " + ".join(self.levers))))


def parse(name: str) -> Contender:
    """The contender of that name."""
    attacker, _, levers = name.partition(", ")
    return Contender(attacker, tuple(levers.split(" + ")) if levers else ())


def roster(graph: bool, compile: bool) -> list[Contender]:
    """Everyone, those that matter most and those that start soonest first: the last ones may find no time left.

    Args:
        graph: with CUDA graphs, this library's and the compiler's.
        compile: with compiled models.
    """
    found = []
    for levers in (*(LEVERS if compile else LAYOUTS), *([ON_CUDA] if graph and compile else [])):
        for attacker in ATTACKERS:
            if (attacker, levers) != (OURS, ("frozen",)):
                found.append(Contender(attacker, levers))
            if graph and attacker in RECORDED and levers not in (("frozen",), ON_CUDA):
                found.append(Contender(attacker, ("graph", *levers)))
    return found


def attacks(contenders: list[Contender], problem: Problem) -> dict[str, Attack]:
    """By name, functions ``(x, y) -> x_adv``, each made when it is first called."""
    network = cache(lambda levers: _network(problem.model, levers))

    def attack(contender: Contender) -> Attack:
        made = cache(lambda: _made(contender, network, problem))
        return lambda x, y: made()(x, y)

    return {str(contender): attack(contender) for contender in contenders}


def _network(model: nn.Module, levers: frozenset[str]) -> nn.Module:
    """A copy of the model in its layout, so that layouts do not share weights; compiled for one shape each."""
    network = copy.deepcopy(model)
    if "channels_last" in levers:
        network = network.to(memory_format=torch.channels_last)
    if "reduce-overhead" in levers:
        return torch.compile(network, dynamic=False, mode="reduce-overhead")
    return torch.compile(network, dynamic=False) if "compile" in levers else network


def _made(contender: Contender, network: Callable[[frozenset[str]], nn.Module], problem: Problem) -> Attack:
    channels_last = "channels_last" in contender.levers
    model = network(frozenset(contender.levers) - {"frozen", "graph"})
    layout = torch.channels_last if channels_last else torch.contiguous_format
    if contender.attacker == OURS:
        attack = ours(model, problem, "graph" in contender.levers)
    elif contender.attacker == ALONE:
        attack = alone(model, problem.steps)
    elif contender.attacker == TEXTBOOK:
        attack = textbook(model, problem)
    else:
        sizes = (problem.eps, problem.step_size, problem.steps, tuple(problem.x.shape[1:]), problem.classes)
        attack = libraries.ready(contender.attacker, model, *sizes)
    if contender.levers and contender.attacker != OURS:
        attack = frozen(model, attack)
    if "graph" in contender.levers and contender.attacker == ALONE:
        attack = captured(attack, problem.x.contiguous(memory_format=layout), problem.y)
    return (lambda x, y: attack(x.contiguous(memory_format=layout), y)) if channels_last else attack


def ours(model: nn.Module, problem: Problem, graph: bool) -> Attack:
    """This library's; it freezes the parameters itself."""
    eps, step_size, steps = problem.eps, problem.step_size, problem.steps
    return lambda x, y: fastat.pgd(model, x, y, eps, step_size, steps, seed=0, graph=graph)


def textbook(model: nn.Module, problem: Problem) -> Attack:
    """The loop that people write."""
    return lambda x, y: eager.pgd(model, x, y, problem.eps, problem.step_size, problem.steps)


def alone(model: nn.Module, steps: int) -> Attack:
    """The model's share of an attack: forward passes and gradients to the input."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(steps):
            leaf = x.detach().requires_grad_()
            logits = model(leaf)
            (grad,) = torch.autograd.grad(logits, leaf, torch.ones_like(logits))
        return grad

    return run


def frozen(model: nn.Module, run: Attack) -> Attack:
    """The attack while those parameters do not ask for a gradient that ours freezes too."""

    def careful(x: Tensor, y: Tensor) -> Tensor:
        with attacking(model, x.device):
            return run(x, y)

    return careful


def captured(run: Attack, *example: Tensor) -> Attack:
    """A CUDA graph of the run on copies of the inputs."""
    inputs = tuple(t.clone() for t in example)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # what libraries and compilers do the first times
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
