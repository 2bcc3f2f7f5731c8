"""What an attack's loop works on, and how it may be recorded."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdRef

from fastat import graphs
from fastat.attacks.grid import quantized
from fastat.attacks.objective import Goal, Objective
from fastat.attacks.trees import put_together
from fastat.attacks.weakness import Doubts, like_probabilities, without_gradient
from fastat.graphs import CaptureError, Graph, Tensors
from fastat.kernels import ops
from fastat.kernels.arguments import compute_dtype
from fastat.kernels.sizes import Size, in_layout
from fastat.models import Model, class_logits
from fastat.support.threat import Norm

_SPARSITY = 0.05
"""The share of the entries that an l1 step moves, of :func:`fastat.l1_step_`."""

SIZES = ("eps", "step_size", "lower", "upper")
_OF_SAMPLES = ("x", "y", "targets", "inputs", "sample_ids", "start", "reference")
"""Beginnings of the names of tensors with a row for each sample."""


@dataclass(frozen=True)
class Terms:
    """What of an attack's inputs is not a tensor; a size of None is among the tensors.

    Attributes:
        quantize: steps of the grid of the results, None for no grid.
        movable: entries of a sample that a mask lets move, for norms that move a share of them.
        structures: how y, targets and inputs are put together from tensors (:mod:`fastat.attacks.trees`).
    """

    norm: Norm
    eps: float | None
    step_size: float | None
    lower: float | None
    upper: float | None
    goal: Goal
    quantize: int | None
    movable: int | None
    structures: tuple[Hashable, Hashable, Hashable]

    def settings(self) -> Hashable:
        """Equal for the same terms; does not keep a function alive, which may hold the model.

        A function is the same only if it is the same object, or the same method of the same object.

        Raises:
            CaptureError: a function or a value cannot be told from one that comes after it.
        """
        goal = tuple(_same_function(getattr(self.goal, one.name), one.name) for one in fields(Goal))
        try:
            hash(self.structures)
        except TypeError as error:
            raise CaptureError(f"y, targets or inputs hold what cannot be recognized again: {error}") from error
        return (
            self.norm,
            self.eps,
            self.step_size,
            self.lower,
            self.upper,
            goal,
            self.quantize,
            self.movable,
            self.structures,
        )


def _same_function(part: Any, name: str) -> Hashable:
    """Equal for one function as long as it lives, whatever its own ``==`` says; what is none is itself."""
    if not callable(part):
        return part
    # A bound method is a new object at every access.
    parts = (part.__self__, part.__func__) if isinstance(part, MethodType) else (part,)
    try:
        return tuple(WeakIdRef(one) for one in parts)
    except TypeError as error:
        kind = type(parts[0]).__name__
        raise CaptureError(
            f"{name} cannot be recognized at the next call: no weak reference to a {kind} can be made"
        ) from error


@dataclass
class Labels:
    """The highest label of a batch, -1 if nobody looked, and the number of classes once the model has shown it.

    ``look`` reads back what is inside the batch and raises ValueError if it is wrong. The device is asked for that when
    the inputs are checked, and :meth:`settle` waits for the answer, before anything is done with them.
    """

    look: Callable[[], int] | None = None
    highest: int = -1
    classes: int | None = None
    couples_samples: Callable[[], bool] = lambda: False

    def settle(self) -> None:
        """Waits for the look inside, once. Raises ValueError."""
        if self.look is not None:
            self.highest, self.look = self.look(), None

    def check(self, classes: int | None) -> None:
        """ValueError if a label is none of the classes."""
        self.classes = classes
        if classes is not None and self.highest >= classes:
            raise ValueError(f"labels must be in [0, {classes}), got {self.highest}")


@dataclass(frozen=True)
class Problem:
    """An attack's inputs in pixel space and in the precision of its state (float32, or float64 for float64 data)."""

    objective: Objective
    x: Tensor
    norm: Norm
    eps: Size
    step_size: Size
    sample_ids: Tensor | None
    lower: Size
    upper: Size
    mean: Tensor | None
    std: Tensor | None
    mask: Tensor | None
    given: Tensor
    quantize: int | None
    movable: int | None
    ends: tuple[Any, Any]

    def with_radius(self, eps: Size) -> "Problem":
        """The same problem in another ball."""
        return replace(self, eps=eps)

    def centre(self) -> Tensor:
        """The inputs, which may lie outside the box by rounding, inside it."""
        return self.x.clamp(min=self.lower).clamp_(max=self.upper)

    def random_start(self, seed: Tensor, draw: int) -> Tensor:
        """A point drawn uniformly from the ball, clipped to the box."""
        return ops.random_start(self.x, self.eps, self.norm, seed, self.sample_ids, self.lower, self.upper, draw=draw)

    def gradient(self, x_adv: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> tuple[Any, Tensor, Tensor]:
        """Output, loss and gradient there; no gradient where the mask lets nothing move. The model may see what
        ``change`` makes of it."""
        output, loss, grad = self.objective.gradient(x_adv, change)
        return output, loss, grad if self.mask is None else grad.masked_fill(~self.mask, 0)

    def doubts(self, output: Any, grad: Tensor) -> Doubts:
        """What is doubtful about a gradient, but of samples that are won or have nothing to move."""
        goal, batch = self.objective.goal, len(grad)
        still = without_gradient(grad)
        others = [self.objective.counted(batch)]
        if self.mask is not None:
            others.append(self.mask.flatten(1).any(1))
        if goal.won is None:
            won = self.objective.won(output, batch)
            others.append(None if won is None else ~won)
        for left in others:
            still = still if left is None else still & left
        unlike = torch.zeros((), dtype=torch.bool, device=grad.device)
        if callable(goal.loss):
            return still, unlike
        return still, like_probabilities(output, self.objective.y, each=goal.loss == "bce")

    def step_(self, x_adv: Tensor, grad: Tensor, size: Size) -> None:
        """One ascent step with projection, in place."""
        ball = (size, self.eps, self.lower, self.upper)
        if self.norm == "l1" and self.movable is not None:
            sparsity = _SPARSITY * self.movable / self.x[0].numel()
            ops.l1_step_(x_adv, grad, self.x, *ball, sparsity)
        else:
            ops.STEPS[self.norm](x_adv, grad, self.x, *ball)

    def on_grid(self, x_adv: Tensor) -> Tensor:
        """The same, or where results are to be on a grid, close by on that."""
        if self.quantize is None:
            return x_adv
        lower, upper = self.ends
        found = quantized(x_adv, self.x, self.eps, self.norm, lower, upper, self.quantize)
        return found if self.mask is None else torch.where(self.mask, found, self.x)

    def enter(self, x: Tensor) -> Tensor:
        """A user's input, pixel or normalized, as state; where the mask lets nothing move, the attacked one."""
        x = x.detach().to(self.x.dtype)
        x = x if self.mean is None or self.std is None else x * self.std + self.mean
        return x if self.mask is None else torch.where(self.mask, x, self.x)

    def leave(self, x_adv: Tensor) -> Tensor:
        """The result as the user's data are: normalized if they were, in their dtype, inside the ball in that dtype."""
        dtype, x_adv = self.given.dtype, self.on_grid(x_adv)
        if self.mean is not None and self.std is not None:
            x_adv = (x_adv - self.mean) / self.std
        elif x_adv.dtype != dtype:
            x_adv = _rounded_inside(x_adv, self.x, dtype, self.lower, self.upper)
        return x_adv if self.mask is None else torch.where(self.mask, x_adv, self.given)


def run(
    work: Callable[[Problem, Tensors], tuple[Tensor, ...]],
    model: Model,
    terms: Terms,
    tensors: Tensors,
    labels: Labels,
    settings: Hashable,
    graph: Graph,
) -> tuple[Tensor, ...]:
    """What ``work`` makes of checked inputs; it may be recorded (:func:`fastat.graphs.run`).

    Args:
        work: is determined by ``terms`` and ``settings``; reads nothing back.
    """

    def body(tensors: Tensors) -> graphs.Made:
        return work(problem_of(model, terms, tensors, labels), tensors), labels.classes

    def before(classes: int | None) -> None:
        labels.settle()
        labels.check(classes)  # a replay does not call the model, which shows them otherwise

    def every() -> Hashable:
        return terms.settings(), settings

    return graphs.run(body, tensors, model=model, settings=every, graph=graph, before=before)[0]


def problem_of(model: Model, terms: Terms, tensors: Tensors, labels: Labels) -> Problem:
    """Checked inputs in one form. Reads nothing back, so that it can be recorded."""
    x, mean, std, mask = tensors["x"], tensors.get("mean"), tensors.get("std"), tensors.get("mask")
    start = pixels(tensors)
    y, targets, inputs = (
        put_together(structure, name, tensors)
        for structure, name in zip(terms.structures, ("y", "targets", "inputs"), strict=True)
    )
    named = inputs if isinstance(inputs, dict) else {}
    others = () if named else inputs

    numbers = {name: getattr(terms, name) for name in SIZES}
    sizes = {name: tensors[name] if number is None else number for name, number in numbers.items()}
    if mask is not None:  # what must not move has a box of one point
        sizes |= {name: in_layout(torch.where(mask, sizes[name], start), start) for name in ("lower", "upper")}

    def shown(state: Tensor) -> Tensor:
        """In the dtype of the data: what the model sees is what is returned."""
        cast = state.to(x.dtype)
        if x.dtype == state.dtype:
            return cast
        inside = _rounded_inside(state.detach(), start, x.dtype, sizes["lower"], sizes["upper"])
        return inside + (cast - cast.detach())  # the gradient is that of the cast

    def forward(state: Tensor) -> Any:
        if mean is not None and std is not None:
            state = (state - mean) / std
        return model(shown(state), *others, **named)

    reference = tensors.get("reference")
    if terms.goal.loss == "kl" and reference is None:
        with torch.no_grad():
            reference = class_logits(forward(start.clone()))  # the model's first layer may work in place
    objective = Objective(forward, terms.goal, y, labels.check, targets, reference, labels.couples_samples)
    return Problem(
        objective, start, terms.norm, sample_ids=tensors.get("sample_ids"), mean=mean, std=std, mask=mask, given=x,
        quantize=terms.quantize, movable=terms.movable, ends=(terms.lower, terms.upper), **sizes,
    )  # fmt: skip


def _rounded_inside(state: Tensor, x: Tensor, dtype: torch.dtype, lower: Size, upper: Size) -> Tensor:
    """A state in half precision, no entry farther from ``x`` than it is: inside any ball that it is in."""
    return ops.project_(state.to(dtype), x.to(dtype), (state - x).abs(), "linf", lower, upper)


def take(tensors: Tensors, index: Tensor) -> dict[str, Tensor]:
    """The tensors of some of the samples; their random numbers stay theirs if their ids are among the tensors."""
    return {name: t[index.to(t.device)] if _has_rows(name, t) else t for name, t in tensors.items()}


def _has_rows(name: str, t: Tensor) -> bool:
    return name.partition(".")[0] in _OF_SAMPLES or (name in (*SIZES, "mask") and t.shape[0] > 1)


def pixels(tensors: Tensors) -> Tensor:
    x = tensors["x"].to(compute_dtype(tensors["x"]))
    return x * tensors["std"] + tensors["mean"] if "mean" in tensors else x
