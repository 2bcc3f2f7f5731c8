"""Ways to run a network, and which of them is the fastest on this machine."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastat.attacks.gradient import attacking
from fastat.attacks.inputs import check_images
from fastat.graphs import first_line
from fastat.models import buffers_put_back, logits_of

ROUNDS = 7
WORTH = 1.05
"""How many times as fast as the network itself another way must be to be taken: less may be chance."""


@dataclass(frozen=True)
class Fastest:
    """The fastest way to run a network that was found, and what was measured.

    Attributes:
        model: calls the given network, in place of which attacks can take it; it has the same parameters, not copies,
            so training one trains the other.
        name: what was chosen: "as it is", "channels last", "compiled" or "compiled, channels last".
        seconds: median time of a forward pass and its gradient to the input, by name.
        failed: why a way could not be run, by name.
    """

    model: nn.Module
    name: str
    seconds: dict[str, float]
    failed: dict[str, str]


def fastest(model: nn.Module, x: Tensor, *, compile: bool = True) -> Fastest:
    """Times the forward pass and input gradient of a network on inputs like ``x``, in several ways.

    As it is; with images in the memory format channels last, which convolutions may prefer; and both under
    torch.compile. The ways take turns, the median of several rounds decides. Results differ from those of the network
    as it is by rounding, so that nothing in this library chooses for itself.

    The weights stay as they lie in memory. Those that do not lie in channels last are laid out anew by every
    convolution of every call, which can cost more than the format gains: for all of it, call
    ``model.to(memory_format=torch.channels_last)`` first, before an optimizer is made.

    Args:
        model: left as it is, in its mode; buffers and torch's random numbers are put back.
        x: inputs ``[B, ...]``, of the shape, dtype and device to be run on.
        compile: also try torch.compile, which takes a minute or so.

    Raises:
        TypeError, ValueError: ``x`` is not a batch of floating-point numbers, or the model no module.
    """
    check_images(x)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}")
    ways: dict[str, nn.Module] = {"as it is": model}
    if compile:
        ways["compiled"] = torch.compile(model)  # type: ignore[assignment]
    if x.dim() == 4:
        ways |= {_NAMES[name]: ChannelsLast(way) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    failed = {}
    with buffers_put_back(model), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        for name, way in ways.items():
            try:
                for _ in range(2):
                    _time(way, x)  # compiles, and chooses algorithms
            except Exception as error:
                if name == "as it is":
                    raise
                failed[name] = first_line(error)
        for _ in range(ROUNDS):
            for name in ways.keys() - failed.keys():
                times[name].append(_time(ways[name], x))
    seconds = {name: statistics.median(taken) for name, taken in times.items() if taken}
    best = min(seconds, key=lambda name: seconds[name])
    chosen = best if seconds["as it is"] >= WORTH * seconds[best] else "as it is"
    return Fastest(ways[chosen], chosen, seconds, failed)


class ChannelsLast(nn.Module):
    """A module that is given its images ``[B, C, H, W]`` in the memory format channels last.

    Its weights are not touched: an optimizer may hold what has to lie as they do.
    """

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner(x.contiguous(memory_format=torch.channels_last))


_NAMES = {"as it is": "channels last", "compiled": "compiled, channels last"}


def _time(model: Callable[[Tensor], Tensor], x: Tensor) -> float:
    with attacking(model, x.device):
        leaf = x.detach().clone().requires_grad_()
        _wait(x)
        start = time.perf_counter()
        logits = logits_of(model(leaf))
        torch.autograd.grad(logits, leaf, torch.ones_like(logits))
        _wait(x)
        return time.perf_counter() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
