"""What is inside the tensors that an attack is given, asked of the device in one read-back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fastat.attacks.grid import ROUNDING, distance_to_grid
from fastat.attacks.objective import Goal
from fastat.attacks.problem import Terms, pixels
from fastat.attacks.weakness import tell, tell_radius, waiting_on
from fastat.graphs import Tensors, capturing

TOLERANCE = 1e-6
"""How far outside the bounds an input may lie, as a fraction of their range: rounding, not an error."""


@dataclass
class _Questions:
    """What is asked, and who is told each answer."""

    asked: list[Tensor] = field(default_factory=list)
    told: list[tuple[int, Callable[[Sequence[float]], None]]] = field(default_factory=list)

    def ask(self, values: Sequence[Tensor], receive: Callable[[Sequence[float]], None]) -> None:
        self.asked += values
        self.told.append((len(values), receive))

    def answered(self, found: Tensor) -> None:
        values: Iterator[float] = iter(found.tolist())
        for count, receive in self.told:
            receive([next(values) for _ in range(count)])


def look_inside(tensors: Tensors, terms: Terms) -> Callable[[], int] | None:
    """Asks for all that is to be known, which the result waits for: it raises ValueError, warns, or returns the highest
    label."""
    x = tensors["x"]
    if x.numel() == 0 or capturing(x):
        return None
    look, highest = _Questions(), [-1]
    _ask_of_inputs(look, pixels(tensors), tensors, terms)
    for name in ("y", "targets"):
        if name in tensors and not callable(terms.goal.loss):
            _ask_of_labels(look, tensors[name], name, terms.goal, highest)
    for name in ("eps", "step_size"):
        if name in tensors:
            look.ask(tensors[name].aminmax(), partial(_tell_size, name=name))
    _ask_of_the_radius(look, tensors, terms)
    for earlier, site in waiting_on(x.device):
        look.ask(list(earlier.unbind()), partial(tell, site=site))
    found = torch.stack([v.to(torch.float64) for v in look.asked])

    def read() -> int:
        look.answered(found)
        return highest[0]

    return read


def _size(tensors: Tensors, terms: Terms, name: str) -> Any:
    number = getattr(terms, name)
    return tensors[name] if number is None else number


def _ask_of_inputs(look: _Questions, x: Tensor, tensors: Tensors, terms: Terms) -> None:
    """Whether they lie in the box, and on the grid if there is one."""
    lower, upper = (_size(tensors, terms, name) for name in ("lower", "upper"))
    normalized = "mean" in tensors
    if terms.quantize is not None:
        look.ask([distance_to_grid(x, lower, upper, terms.quantize)], partial(_tell_grid, levels=terms.quantize))
    if not isinstance(lower, Tensor) and not isinstance(upper, Tensor):
        ends = [abs(end) for end in (lower, upper) if math.isfinite(end)]
        slack = TOLERANCE * (upper - lower if len(ends) == 2 else max([1.0, *ends]))

        def tell_range(found: Sequence[float]) -> None:
            if ends and not (found[0] >= lower - slack and found[1] <= upper + slack):
                raise ValueError(_outside_message(found[0], found[1], lower, upper, normalized))

        return look.ask(x.aminmax(), tell_range)
    wide = torch.as_tensor(upper - lower).to(x.device)

    def tell_distance(found: Sequence[float]) -> None:
        distance, narrowest, widest = max(found[:2]), found[2], found[3]
        if not narrowest >= 0:
            raise ValueError("bounds must have lower <= upper, got entries for which it is not")
        if not distance <= TOLERANCE * (widest if math.isfinite(widest) else 1.0):
            raise ValueError(f"x has values up to {distance:.4g} outside the bounds: pass the bounds of your data")

    return look.ask([(lower - x).amax(), (x - upper).amax(), wide.amin(), wide.amax()], tell_distance)


def _ask_of_the_radius(look: _Questions, tensors: Tensors, terms: Terms) -> None:
    """Whether it is larger than the box is wide: in some entry, or in the norm from corner to corner."""
    x, norm = tensors["x"], terms.norm
    lower, upper, eps = (_size(tensors, terms, name) for name in ("lower", "upper", "eps"))
    n = math.prod(x.shape[1:])
    if not any(isinstance(size, Tensor) for size in (lower, upper, eps)):
        across = (upper - lower) * {"linf": 1.0, "l2": math.sqrt(n), "l1": float(n)}[norm]
        return tell_radius(eps - across, eps, norm)
    wide = torch.as_tensor(upper - lower, dtype=torch.float64, device=x.device)
    if norm != "linf":
        corners = (
            wide.expand(len(wide) if wide.dim() else 1, *x.shape[1:]).flatten(1).norm(2 if norm == "l2" else 1, dim=1)
        )
        wide = corners.view(-1, *[1] * (x.dim() - 1))
    radius = torch.as_tensor(eps, dtype=torch.float64, device=x.device)
    look.ask([(radius - wide).amax(), radius.amax()], lambda found: tell_radius(found[0], found[1], norm))


def _ask_of_labels(look: _Questions, labels: Tensor, name: str, goal: Goal, highest: list[int]) -> None:
    several = labels.dim() > 1 and goal.of_classes

    def tell_classes(found: Sequence[float]) -> None:
        if found[0] < 0:
            hint = f" (those of ignore_index={goal.ignore_index} do not count)" if several else ""
            raise ValueError(f"{name} must be >= 0, got {int(found[0])}{hint}")
        highest[0] = max(highest[0], int(found[1]))

    def tell_shares(found: Sequence[float]) -> None:
        if not (found[0] >= 0 and found[1] <= 1):
            raise ValueError(f"{name} must be in [0, 1] for 'bce', got values in [{found[0]:.4g}, {found[1]:.4g}]")

    if several:
        labels = labels.masked_fill(labels == goal.ignore_index, 0)
    look.ask(labels.aminmax(), tell_classes if goal.of_classes else tell_shares)


def _tell_size(found: Sequence[float], name: str) -> None:
    if not found[0] >= 0:
        raise ValueError(f"{name} must be >= 0, got {found[0]}")
    if math.isinf(found[1]):
        raise ValueError(f"{name} must be finite, got inf")


def _tell_grid(found: Sequence[float], levels: int) -> None:
    if not found[0] <= 10 * ROUNDING:
        raise ValueError(
            f"quantize={levels} needs inputs on that grid, got one {found[0]:.2g} of a step off it: no point of the "
            f"grid may be inside the ball. Round them first, (x * {levels}).round() / {levels} for a box [0, 1]"
        )


def _outside_message(lowest: float, highest: float, lower: float, upper: float, normalized: bool) -> str:
    if math.isnan(lowest):
        return "x holds NaN"
    found = f"x has values in [{lowest:.4g}, {highest:.4g}], outside the bounds ({lower:g}, {upper:g})"
    if normalized:
        return f"{found} once normalization is undone: are mean and std those of the data?"
    if lowest >= 0 and highest > 2 and upper <= 1:
        return f"{found}: 8-bit images must be divided by 255"
    if lowest < lower and upper <= 1:
        return (
            f"{found}; it looks normalized. Either pass pixels and put the normalization into the model, "
            "fastat.Normalized(model, mean, std), or pass normalization=(mean, std) to the attack; "
            "bounds=None attacks without a box"
        )
    return f"{found}; pass the bounds of your data, or bounds=None for none"
