"""What a user passes to an attack: checked, with messages that name what is wrong, and sorted."""

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fastat.attacks.grid import check_levels
from fastat.attacks.objective import Goal
from fastat.attacks.problem import SIZES, Labels, Terms, pixels
from fastat.attacks.trees import taken_apart
from fastat.attacks.weakness import check_radius, reach, tell, tell_radius
from fastat.graphs import Tensors, capturing
from fastat.kernels import ops
from fastat.kernels.arguments import compute_dtype, integer_labels
from fastat.kernels.sizes import Box, Size, check_size, in_layout, one_per_sample, spread
from fastat.support.threat import Norm, check_bounds, check_norm

Normalization = tuple[float | Sequence[float], float | Sequence[float]]
"""(mean, std), each a number or one per channel."""

TOLERANCE = 1e-6
"""How far outside the bounds an input may lie, as a fraction of their range: rounding, not an error."""


def checked(
    x: Tensor,
    y: Any,
    eps: Size,
    step_size: Size,
    norm: Norm,
    *,
    goal: Goal,
    targets: Any,
    bounds: Box,
    sample_ids: Tensor | None,
    normalization: Normalization | None,
    validate: bool,
    mask: Tensor | None = None,
    inputs: tuple[Any, ...] | Mapping[str, Any] = (),
    quantize: int | None = None,
    earlier: Tensor | None = None,
) -> tuple[Terms, dict[str, Tensor], Labels]:
    """Checks the inputs of an attack (TypeError, ValueError) and sorts them into tensors and the rest; the look inside
    the tensors is still to be settled.

    Args:
        earlier: what a call before this one has left to :func:`fastat.attacks.weakness.tell`.
    """
    check_norm(norm)
    check_images(x)
    lower, upper = _ends(bounds, x)
    for name, size in (("eps", eps), ("step_size", step_size)):
        check_size(size, name, x, check_values=validate)
        if norm != "linf" and isinstance(size, Tensor) and not one_per_sample(spread(size, name, x)):
            raise ValueError(f"{name} must be a number or one per sample for norm {norm!r}, got {list(size.shape)}")
    check_radius(eps, lower, upper, norm, math.prod(x.shape[1:]))
    _check_goal(goal, targets)
    tensors = {"x": x}
    structures = [_labels(value, name, x, goal, tensors) for value, name in ((y, "y"), (targets, "targets"))]
    if not isinstance(inputs, tuple | list | Mapping):
        raise TypeError(f"inputs must be a tuple or a dict of what else the model takes, got {type(inputs).__name__}")
    structures.append(taken_apart(inputs, "inputs", len(x), tensors))
    if mask is not None:
        tensors["mask"] = _mask(mask, x, validate)
    if sample_ids is not None:
        tensors["sample_ids"] = integer_labels(sample_ids, x, "sample_ids")
    if normalization is not None:
        dtype = compute_dtype(x)
        if x.dtype != dtype:  # its rounding would carry the result out of a ball given in pixels
            raise ValueError(f"normalization needs float32 or float64 data, got {x.dtype}: pass x.float()")
        for name, value in zip(("mean", "std"), normalization, strict=True):
            tensors[name] = _channelwise(value, name, x)
    sizes = dict(zip(SIZES, (eps, step_size, lower, upper), strict=True))
    tensors |= {name: _spread(size, name, x) for name, size in sizes.items() if isinstance(size, Tensor)}
    numbers = {name: None if isinstance(size, Tensor) else float(size) for name, size in sizes.items()}
    tensors = {name: _recordable(t.detach()) for name, t in tensors.items()}
    if quantize is not None:
        check_levels(quantize, lower, upper)
    terms = Terms(
        norm, goal=goal, quantize=quantize, structures=(structures[0], structures[1], structures[2]), **numbers
    )
    return terms, tensors, Labels(_look(tensors, terms, earlier) if validate else None)


def _ends(bounds: Box, x: Tensor) -> tuple[Size, Size]:
    """The box, infinite for None; ValueError unless lower < upper, as far as that costs no synchronization."""
    if not isinstance(bounds, tuple | list) or len(bounds) != 2 or not any(isinstance(end, Tensor) for end in bounds):
        return check_bounds(bounds)  # type: ignore[arg-type]
    ends = [none if end is None else end for end, none in zip(bounds, (-math.inf, math.inf), strict=True)]
    full = [spread(end, "bounds", x) if isinstance(end, Tensor) else float(end) for end in ends]
    if not x.is_cuda and not capturing(x) and not bool((torch.as_tensor(full[0]) < torch.as_tensor(full[1])).all()):
        raise ValueError("bounds must have lower < upper, got entries for which it is not")
    return full[0], full[1]


def _spread(size: Tensor, name: str, x: Tensor) -> Tensor:
    """A size with as many dimensions as ``x``, in the type of the attack's state; of elements, as the ops take it."""
    full = spread(size.detach(), name, x).to(compute_dtype(x))
    return full if one_per_sample(full) else in_layout(full, x)


def check_batch(x: Tensor, y: Tensor, bounds: Box, sample_ids: Tensor | None) -> None:
    """Raises TypeError or ValueError for inputs, labels or ids that no attack takes, in types, shapes and values."""
    check_images(x)
    nothing: dict[str, Any] = {"targets": None, "normalization": None}
    found = checked(
        x, y, 0.0, 0.0, "linf", goal=Goal("ce"), bounds=bounds, sample_ids=sample_ids, validate=True, **nothing
    )  # fmt: skip
    found[2].settle()


def check_images(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if not x.is_floating_point():
        hint = "; divide 8-bit images by 255" if x.dtype == torch.uint8 else ""
        raise TypeError(f"x must be a floating-point tensor, got {x.dtype}{hint}")
    if x.dim() < 2:
        raise ValueError(f"x must be a batch [B, ...], got shape {list(x.shape)}")


def _check_goal(goal: Goal, targets: Any) -> None:
    loss = goal.loss
    if goal.won is not None and not callable(goal.won):
        raise TypeError(f"won must be a function (output, y) -> bool [B], got {type(goal.won).__name__}")
    if callable(loss):
        return
    if loss not in ops.LOSS_KINDS:
        raise ValueError(f"loss must be a function or one of {', '.join(ops.LOSS_KINDS)}, got {loss!r}")
    if loss == "dlr_targeted" and targets is None:
        raise ValueError("loss 'dlr_targeted' needs targets")
    if loss == "kl" and targets is not None:
        raise ValueError("loss 'kl' has no targets: it moves the prediction away from that on x")


def _labels(value: Any, name: str, x: Tensor, goal: Goal, tensors: dict[str, Tensor]) -> Hashable:
    """Adds labels to the tensors. For a loss of the user's own they are the user's; else classes, [B] or one for each
    of several positions, or for 'bce' a number in [0, 1] for each logit."""
    if value is None and name == "targets":
        return "constant", None
    if callable(goal.loss):
        return taken_apart(value, name, len(x), tensors)
    if goal.loss == "bce":
        if not isinstance(value, Tensor) or value.dim() < 2 or len(value) != len(x) or value.device != x.device:
            found = f"{list(value.shape)} on {value.device}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{name} must be labels [{len(x)}, C] in [0, 1] on {x.device} for 'bce', got {found}")
        tensors[name] = value
    else:
        several = isinstance(value, Tensor) and value.dim() > 1 and value.shape[0] == x.shape[0]
        flat = integer_labels(value.flatten() if several else value, x if not several else value.flatten(), name)
        tensors[name] = flat.view(value.shape)
    return None


def _mask(mask: Tensor, x: Tensor, validate: bool) -> Tensor:
    """Bool, of as many dimensions as ``x``."""
    if not isinstance(mask, Tensor) or mask.is_complex():
        raise TypeError(f"mask must be a bool tensor, got {getattr(mask, 'dtype', type(mask).__name__)}")
    if mask.dtype != torch.bool and validate and not capturing(x) and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask must hold zeros and ones: where it is one an input may move, by up to eps")
    return spread(mask.detach() != 0, "mask", x)


def _recordable(t: Tensor) -> Tensor:
    """A tensor that autograd can save, also if it was made in inference mode."""
    return t.clone() if t.is_inference() else t


def _channelwise(value: float | Sequence[float] | Tensor, name: str, x: Tensor) -> Tensor:
    """Mean or standard deviation, in a shape that broadcasts over channels; made without a copy from host to device."""
    if isinstance(value, Tensor) and value.device.type != "cpu":
        t = value.to(x.dtype)
    else:
        numbers = torch.as_tensor(value, dtype=torch.float64)
        if name == "std" and not bool((numbers > 0).all()):
            raise ValueError(f"normalization: std must be > 0, got {value}")
        entries = [torch.full((), v, dtype=x.dtype, device=x.device) for v in numbers.flatten().tolist()]
        t = torch.stack(entries).view(numbers.shape)
    if t.dim() > 1 or (t.dim() == 1 and t.shape[0] not in (1, x.shape[1])):
        raise ValueError(f"normalization: {name} must be a number or {x.shape[1]} of them, got shape {list(t.shape)}")
    return t.view(-1, *[1] * (x.dim() - 2)) if t.dim() == 1 else t


def check_start(start: Tensor, x: Tensor, validate: bool) -> None:
    """Checks a user's first iterate: a tensor like ``x``, with finite values."""
    if not isinstance(start, Tensor) or not start.is_floating_point():
        raise TypeError(f"start must be a floating-point tensor, got {getattr(start, 'dtype', type(start).__name__)}")
    if start.shape != x.shape or start.device != x.device:
        raise ValueError(
            f"start must have shape {list(x.shape)} on {x.device}, got {list(start.shape)} on {start.device}"
        )
    if validate and not capturing(x) and not bool(start.isfinite().all()):
        raise ValueError("start holds values that are not finite")


@dataclass
class _Look:
    """What is asked of the values inside tensors, all in one read-back, and what is to be done with each answer."""

    asked: list[Tensor] = field(default_factory=list)
    told: list[tuple[int, Callable[[Sequence[float]], None]]] = field(default_factory=list)

    def ask(self, values: Sequence[Tensor], receive: Callable[[Sequence[float]], None]) -> None:
        self.asked += values
        self.told.append((len(values), receive))

    def answered(self, found: Tensor) -> None:
        values: Iterator[float] = iter(found.tolist())
        for count, receive in self.told:
            receive([next(values) for _ in range(count)])


def _look(tensors: Tensors, terms: Terms, earlier: Tensor | None) -> Callable[[], int] | None:
    """Asks for what is inside the tensors, in one read-back for all of them, which the result does: it raises
    ValueError, warns, or returns the highest label."""
    x = tensors["x"]
    if x.numel() == 0 or capturing(x):
        return None
    look, highest = _Look(), [-1]
    _ask_of_the_box(look, tensors, terms)
    for name in ("y", "targets"):
        if name in tensors and not callable(terms.goal.loss):
            _ask_of_labels(look, tensors[name], name, terms.goal, highest)
    for name in ("eps", "step_size"):
        if name in tensors:
            look.ask([tensors[name].min()], lambda found, name=name: _tell_smallest(found[0], name))  # type: ignore[misc]
    if any(name in tensors for name in ("eps", "lower", "upper")):
        lower, upper, eps = (_size(tensors, terms, name) for name in ("lower", "upper", "eps"))
        n, norm = math.prod(x.shape[1:]), terms.norm
        ends = [torch.as_tensor(t, device=x.device).double() for t in (eps, upper - lower)]
        look.ask([ends[0].amax(), ends[1].amax()], lambda found: tell_radius(found[0], found[1] * reach(norm, n), norm))
    if earlier is not None:
        look.ask(list(earlier.unbind()), tell)
    found = torch.stack([v.to(torch.float64) for v in look.asked])

    def read() -> int:
        look.answered(found)
        return highest[0]

    return read


def _size(tensors: Tensors, terms: Terms, name: str) -> Any:
    number = getattr(terms, name)
    return tensors[name] if number is None else number


def _ask_of_the_box(look: _Look, tensors: Tensors, terms: Terms) -> None:
    """Whether x lies in it."""
    lower, upper = (_size(tensors, terms, name) for name in ("lower", "upper"))
    x = pixels(tensors)
    normalized = "mean" in tensors
    if not isinstance(lower, Tensor) and not isinstance(upper, Tensor):
        ends = [abs(end) for end in (lower, upper) if math.isfinite(end)]
        slack = TOLERANCE * (upper - lower if len(ends) == 2 else max([1.0, *ends]))

        def tell_range(found: Sequence[float]) -> None:
            if ends and not (found[0] >= lower - slack and found[1] <= upper + slack):
                raise ValueError(_outside_message(found[0], found[1], lower, upper, normalized))

        return look.ask(x.aminmax(), tell_range)
    below, above, wide = (lower - x).amax(), (x - upper).amax(), torch.as_tensor(upper - lower).to(x.device)

    def tell_distance(found: Sequence[float]) -> None:
        distance, narrowest, widest = max(found[:2]), found[2], found[3]
        if not narrowest > 0:
            raise ValueError("bounds must have lower < upper, got entries for which it is not")
        if not distance <= TOLERANCE * (widest if math.isfinite(widest) else 1.0):
            raise ValueError(f"x has values up to {distance:.4g} outside the bounds: pass the bounds of your data")

    return look.ask([below, above, wide.amin(), wide.amax()], tell_distance)


def _ask_of_labels(look: _Look, labels: Tensor, name: str, goal: Goal, highest: list[int]) -> None:
    def tell_classes(found: Sequence[float]) -> None:
        if found[0] < 0:
            raise ValueError(f"{name} must be >= 0, got {int(found[0])}")
        highest[0] = max(highest[0], int(found[1]))

    def tell_shares(found: Sequence[float]) -> None:
        if not (found[0] >= 0 and found[1] <= 1):
            raise ValueError(f"{name} must be in [0, 1] for 'bce', got values in [{found[0]:.4g}, {found[1]:.4g}]")

    if labels.dim() > 1 and goal.of_classes:
        labels = labels.masked_fill(labels == goal.ignore_index, 0)
    look.ask(labels.aminmax(), tell_classes if goal.of_classes else tell_shares)


def _tell_smallest(smallest: float, name: str) -> None:
    if not smallest >= 0:
        raise ValueError(f"{name} must be >= 0, got {smallest}")


def _outside_message(lowest: float, highest: float, lower: float, upper: float, normalized: bool) -> str:
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
