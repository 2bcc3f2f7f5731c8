"""What an attack step costs on paper, operations and bytes, and where the profiler sees its time go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

MOST_KERNELS = 20
GROUPS = ("convolution", "linear", "normalization", "pointwise", "ours", "rest")
_WORDS = {
    "ours": ("fastat::",),
    "convolution": ("conv",),
    "normalization": ("norm",),
    "linear": ("mm", "linear", "attention", "attn"),
    "pointwise": (
        "relu", "gelu", "threshold", "add", "sub", "mul", "div", "neg", "sign", "clamp", "copy", "clone", "fill",
        "zero", "uniform", "where",
    ),
}  # fmt: skip
"""Words in an operator's name, looked for in this order; what has none of them is the rest."""


@dataclass(frozen=True)
class Paper:
    """Of one forward pass and input gradient.

    Attributes:
        forward_flop: operations of the forward pass, a multiplication and an addition being two.
        gradient_flop: of the gradient to the input, the parameters asking for none.
        bytes: fewest bytes moved: forward and back, each weight is read once, and each output of a convolution or
            linear layer is written or read once; everything between them could be fused.
    """

    forward_flop: int
    gradient_flop: int
    bytes: int


def on_paper(model: nn.Module, x: Tensor, element_bytes: int) -> Paper:
    """Counts one pass of the model on ``x``; an activation or weight has so many bytes."""
    outputs: list[int] = []
    heavy = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [module.register_forward_hook(lambda _m, _x, out: outputs.append(out.numel())) for module in heavy]
    model.requires_grad_(False)
    try:
        leaf = x.detach().requires_grad_()
        with FlopCounterMode(display=False) as forward:
            logits = model(leaf)
        with FlopCounterMode(display=False) as backward:
            torch.autograd.grad(logits.sum(), leaf)
    finally:
        model.requires_grad_(True)
        for hook in hooks:
            hook.remove()
    weights = sum(p.numel() for p in model.parameters())
    moved = 2 * element_bytes * (weights + sum(outputs))
    return Paper(forward.get_total_flops(), backward.get_total_flops(), moved)


def shares(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of the operators' own time by group: on CUDA that of the kernels they start, on a CPU that of the host."""
    cuda = device.type == "cuda"
    seconds = dict.fromkeys(GROUPS, 0.0)
    for event in _profiled(work, device):
        if event.device_type == DeviceType.CPU:  # kernels are listed once more by themselves
            seconds[group_of(event.key)] += event.self_device_time_total if cuda else event.self_cpu_time_total
    whole = sum(seconds.values())
    return {group: value / whole for group, value in seconds.items()}


def kernels(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Share of the device's time by kernel, the largest first; nothing on a CPU."""
    if device.type == "cpu":
        return {}
    events = [event for event in _profiled(work, device) if event.device_type == DeviceType.CUDA]
    whole = sum(event.self_device_time_total for event in events)
    largest = sorted(events, key=lambda event: -event.self_device_time_total)[:MOST_KERNELS]
    return {event.key[:120]: event.self_device_time_total / whole for event in largest}


def _profiled(work: Callable[[], object], device: torch.device) -> Sequence[Any]:
    cuda = device.type == "cuda"
    work()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as profiler:
        work()
        if cuda:
            torch.cuda.synchronize()
    return profiler.key_averages()


def group_of(operator: str) -> str:
    """The group of an operator, by its name."""
    name = operator.lower()
    return next((group for group, words in _WORDS.items() if any(word in name for word in words)), "rest")
