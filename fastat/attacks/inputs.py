"""What a user passes to an attack: checked, with messages that name what is wrong, and sorted."""

import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from fastat.attacks.grid import check_levels
from fastat.attacks.look import look_inside
from fastat.attacks.objective import Goal
from fastat.attacks.problem import SIZES, Labels, Terms
from fastat.attacks.trees import taken_apart
from fastat.graphs import capturing
from fastat.kernels import ops
from fastat.kernels.arguments import check_data, check_dense, compute_dtype, integer_labels
from fastat.kernels.sizes import Box, Size, check_size, in_layout, one_per_sample, spread
from fastat.support.threat import Norm, as_float, check_bounds, check_norm

Normalization = tuple[float | Sequence[float], float | Sequence[float]]
"""(mean, std), each a number or one per channel."""


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
) -> tuple[Terms, dict[str, Tensor], Labels]:
    """Checks the inputs of an attack (TypeError, ValueError) and sorts them into tensors and the rest; the look inside
    the tensors is still to be settled."""
    check_norm(norm)
    check_images(x)
    lower, upper = _ends(bounds, x)
    for name, size in (("eps", eps), ("step_size", step_size)):
        check_size(size, name, x, check_values=validate)
        if norm != "linf" and isinstance(size, Tensor) and not one_per_sample(spread(size, name, x)):
            raise ValueError(f"{name} must be a number or one per sample for norm {norm!r}, got {list(size.shape)}")
        if not isinstance(size, Tensor) and math.isinf(as_float(size)):
            raise ValueError(f"{name} must be finite, got {size}: a ball as wide as the box is all of it")
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
        try:
            mean, std = normalization
        except (TypeError, ValueError) as error:
            raise TypeError(f"normalization must be a pair (mean, std), got {_brief(normalization)}") from error
        tensors |= {"mean": _channelwise(mean, "mean", x), "std": _channelwise(std, "std", x)}
    sizes = dict(zip(SIZES, (eps, step_size, lower, upper), strict=True))
    tensors |= {name: _spread(size, name, x) for name, size in sizes.items() if isinstance(size, Tensor)}
    numbers = {name: None if isinstance(size, Tensor) else as_float(size) for name, size in sizes.items()}
    tensors = {name: _recordable(t.detach()) for name, t in tensors.items()}
    if quantize is not None:
        check_levels(quantize, lower, upper, x.dtype)
    movable = _movable(tensors["mask"], x) if norm == "l1" and "mask" in tensors else None
    terms = Terms(
        norm, goal=goal, quantize=quantize, movable=movable, structures=(structures[0], structures[1], structures[2]),
        **numbers,
    )  # fmt: skip
    return terms, tensors, Labels(look_inside(tensors, terms) if validate else None)


def _ends(bounds: Box, x: Tensor) -> tuple[Size, Size]:
    """The box, infinite for None; ValueError unless lower < upper, or lower <= upper in every entry of tensors, as far
    as that costs no synchronization."""
    if isinstance(bounds, tuple | list):
        for end in bounds:
            if isinstance(end, bool) or not isinstance(end, Tensor | Real | None):
                cure = ": torch.as_tensor makes a tensor of it" if type(end).__name__ == "ndarray" else ""
                raise TypeError(f"bounds must be numbers, tensors or None, got {type(end).__name__}{cure}")
    if not isinstance(bounds, tuple | list) or len(bounds) != 2 or not any(isinstance(end, Tensor) for end in bounds):
        return check_bounds(bounds)  # type: ignore[arg-type]
    ends = [none if end is None else end for end, none in zip(bounds, (-math.inf, math.inf), strict=True)]
    full = [spread(end, "bounds", x) if isinstance(end, Tensor) else as_float(end) for end in ends]
    if not x.is_cuda and not capturing(x) and not bool((torch.as_tensor(full[0]) <= torch.as_tensor(full[1])).all()):
        raise ValueError("bounds must have lower <= upper, got entries for which it is not")
    return full[0], full[1]


def _movable(mask: Tensor, x: Tensor) -> int | None:
    """The most entries of a sample that may move; None, for all, where to count would wait for a recording."""
    return None if capturing(x) else int(mask.expand(len(mask), *x.shape[1:]).flatten(1).sum(1).max())


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
    check_data(x, "x")
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
    if value is None and (name == "targets" or goal.loss == "kl"):
        return taken_apart(None, name, len(x), tensors)
    if callable(goal.loss):
        return taken_apart(value, name, len(x), tensors)
    if goal.loss == "bce":
        if not isinstance(value, Tensor) or value.shape[:1] != x.shape[:1] or value.device != x.device:
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
    check_dense(mask, "mask")
    if mask.dtype != torch.bool and validate and not capturing(x) and not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError("mask must hold zeros and ones: where it is one an input may move, by up to eps")
    return spread(mask.detach() != 0, "mask", x)


def _recordable(t: Tensor) -> Tensor:
    """A tensor that autograd can save, also if it was made in inference mode."""
    return t.clone() if t.is_inference() else t


def _brief(value: object) -> str:
    try:
        return f"{value!s:.60}"
    except ValueError:  # an integer of more digits than Python writes
        return "a number of too many digits"


def _channelwise(value: float | Sequence[float] | Tensor, name: str, x: Tensor) -> Tensor:
    """Mean or standard deviation, in a shape that broadcasts over channels; made without a copy from host to device."""
    if isinstance(value, Tensor) and value.device.type != "cpu":
        t = value.to(x.dtype)
    else:
        try:
            numbers = torch.as_tensor(value, dtype=torch.float64)
        except (OverflowError, TypeError, ValueError, RuntimeError) as error:
            kind = ValueError if isinstance(error, OverflowError) else TypeError
            wanted = f"a finite number or {x.shape[1]} of them"
            raise kind(f"normalization: {name} must be {wanted}, got {_brief(value)}") from error
        if not bool(numbers.isfinite().all()):
            raise ValueError(f"normalization: {name} must be finite, got {_brief(value)}")
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
    check_data(start, "start")
    if start.shape != x.shape or start.device != x.device:
        raise ValueError(
            f"start must have shape {list(x.shape)} on {x.device}, got {list(start.shape)} on {start.device}"
        )
    if validate and not capturing(x) and not bool(start.isfinite().all()):
        raise ValueError("start holds values that are not finite")
