"""What is measured for the cost model: networks in precisions, and how the time grows with one thing."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

import fastat
from bench.contests import machine, timing
from bench.cost_model.counts import kernels, on_paper, shares
from bench.peers.attackers import alone
from bench.suites.inputs import rand
from bench.suites.networks import NETWORKS, Network, random_network
from fastat.kernels import ops

STEPS = 10


@dataclass(frozen=True)
class Part:
    """A network in a precision, and a batch that keeps the device busy."""

    network: str
    batch: int
    precision: str


@dataclass(frozen=True)
class Sweep:
    """What is varied, of a network that has ``batch`` images and ``steps`` steps otherwise."""

    network: str
    batch: int
    precision: str
    values: dict[str, Sequence[int]]


def parts(device: torch.device) -> list[Part]:
    if device.type == "cpu":
        precisions = ("fp32", "bf16") if machine.has_bf16(device) else ("fp32",)
        sizes = {"small_cnn": 128, "preact_resnet18": 8, "wide_resnet_28_10": 2, "resnet50": 2, "vit_b_16": 2}
    else:
        precisions = ("tf32", "bf16", "fp32")
        sizes = {"preact_resnet18": 128, "wide_resnet_28_10": 128, "resnet50": 64, "vit_b_16": 64, "small_cnn": 128}
    return [Part(network, batch, precision) for network, batch in sizes.items() for precision in precisions]


def sweeps(device: torch.device) -> list[Sweep]:
    steps, classes = (1, 2, 5, 10, 20), (10, 100, 1000, 10_000)
    if device.type == "cpu":
        small = {"batch": (8, 16, 32, 64, 128, 256), "steps": steps, "image size": (16, 24, 32, 48, 64)}
        large = {"batch": (1, 2, 4, 8, 16), "steps": steps, "image size": (16, 24, 32, 48)}
        return [
            Sweep("small_cnn", 32, "fp32", {**small, "classes": classes}),
            Sweep("preact_resnet18", 4, "fp32", {**large, "classes": classes}),
        ]
    values = {"batch": (16, 32, 64, 128, 256, 512, 1024), "steps": steps, "image size": (16, 32, 64, 96, 128)}
    return [Sweep("preact_resnet18", 128, precision, {**values, "classes": classes}) for precision in ("tf32", "bf16")]


def measured(part: Part, copy: float, device: torch.device) -> dict[str, Any]:
    """One network in one precision: on paper, against the clock, and by kind of operator."""
    about = NETWORKS[part.network]
    model, x, y = _inputs(about, part.precision, part.batch, device)
    dtype = torch.bfloat16 if part.precision == "bf16" else torch.float32
    paper = on_paper(model, x, dtype.itemsize)
    product, product_flop = machine.product(device, dtype)
    with torch.no_grad():
        logits = model(x)
    count = timing.sets_beyond_cache(3 * x.numel() * x.element_size(), device)
    points = [(torch.randn_like(x), x.clone(), x.clone()) for _ in range(count)]

    def own() -> None:
        for grad, x_adv, around in points:
            ops.attack_loss(logits, y, "ce")
            ops.linf_step_(x_adv, grad, around, about.eps / 4, about.eps)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def ceiling() -> None:
        torch.backends.cuda.matmul.allow_tf32 = part.precision == "tf32"  # as convolutions, not as linear layers
        product()
        torch.backends.cuda.matmul.allow_tf32 = False

    attack = _attack(model, x, y, about.eps, STEPS)
    works = {"forward": forward, "model": lambda: alone(model, 1)(x, y), "attack": attack, "product": ceiling}
    seconds = _in_turns({**works, "own": own}, device)
    flops = product_flop / seconds["product"]
    return {
        **asdict(part), "size": about.size, **asdict(paper), "product_flop_per_s": flops,
        "flop_seconds": (paper.forward_flop + paper.gradient_flop) / flops, "byte_seconds": paper.bytes / copy,
        "forward_seconds": seconds["forward"], "model_seconds": seconds["model"],
        "step_seconds": seconds["attack"] / STEPS, "own_seconds": seconds["own"] / count,
        "shares": shares(_attack(model, x, y, about.eps, STEPS, graph=False), device),
        "kernels": kernels(attack, device),
    }  # fmt: skip


def swept(sweep: Sweep, name: str, values: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Time of the attack at each value of one thing, and the power of it that fits."""
    attacks = {}
    for value in values:
        about = NETWORKS[sweep.network]
        if name in ("image size", "classes"):
            about = replace(about, **{"image size": {"size": value}, "classes": {"classes": value}}[name])
        batch, steps = value if name == "batch" else sweep.batch, value if name == "steps" else STEPS
        model, x, y = _inputs(about, sweep.precision, batch, device)
        attacks[str(value)] = _attack(model, x, y, about.eps, steps)
    seconds = list(_in_turns(attacks, device).values())
    here = {"network": sweep.network, "precision": sweep.precision, "batch": sweep.batch, "varied": name}
    return {**here, "values": list(values), "seconds": seconds, **fitted_power(values, seconds)}


def fitted_power(values: Sequence[float], seconds: Sequence[float]) -> dict[str, float]:
    """Least squares for ``log seconds = power * log value + constant``, with the standard error of the power."""
    u, v = [math.log(value) for value in values], [math.log(s) for s in seconds]
    n, mean_u, mean_v = len(u), sum(u) / len(u), sum(v) / len(v)
    spread = sum((a - mean_u) ** 2 for a in u)
    power = sum((a - mean_u) * (b - mean_v) for a, b in zip(u, v, strict=True)) / spread
    residual = sum((b - mean_v - power * (a - mean_u)) ** 2 for a, b in zip(u, v, strict=True))
    return {"power": power, "power_error": math.sqrt(residual / (n - 2) / spread)}


def _inputs(about: Network, precision: str, batch: int, device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    model = random_network(about, precision, device)
    x = rand((batch, 3, about.size, about.size), device, 0)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def _attack(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, graph: bool | None = None
) -> Callable[[], object]:
    graph = x.is_cuda if graph is None else graph
    return lambda: fastat.pgd(model, x, y, eps, eps / 4, steps, seed=0, graph=graph)


def _in_turns(works: dict[str, Callable[[], object]], device: torch.device) -> dict[str, float]:
    """Median seconds of each; what disturbs the machine meets all of them."""
    contenders = {name: lambda _, work=work: work() for name, work in works.items()}
    nothing = [(torch.empty(0, device=device),)]
    times, failed = timing.in_turns(
        contenders, nothing, device, in_place=False, captured=False, seconds=2.0, end=math.inf
    )
    for error in failed.values():
        raise error
    return {name: statistics.median(times[name]) for name in works}
