"""What a user passes to an attack: checked, with messages that name what is wrong, and sorted."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastat.attacks.gradient import LossFunction
from fastat.attacks.problem import Labels, Terms, pixels
from fastat.graphs import Tensors, capturing
from fastat.kernels import ops
from fastat.kernels.arguments import compute_dtype, integer_labels
from fastat.support.threat import Bounds, Norm, check_bounds, check_norm, check_size

Normalization = tuple[float | Sequence[float], float | Sequence[float]]
"""(mean, std), each a number or one per channel."""

TOLERANCE = 1e-6
"""How far outside the bounds an input may lie, as a fraction of their range: rounding, not an error."""


def checked(
    x: Tensor,
    y: Tensor,
    eps: float | Tensor,
    step_size: float | Tensor,
    norm: Norm,
    *,
    loss: ops.LossKind | LossFunction,
    targets: Tensor | None,
    bounds: Bounds,
    sample_ids: Tensor | None,
    normalization: Normalization | None,
    validate: bool,
) -> tuple[Terms, dict[str, Tensor], Labels]:
    """Checks the inputs of an attack (TypeError, ValueError) and sorts them into tensors and the rest; the look inside
    the tensors is still to be settled."""
    check_norm(norm)
    lower, upper = check_bounds(bounds)
    check_images(x)
    check_size(eps, "eps", x.shape[0], check_values=validate)
    check_size(step_size, "step_size", x.shape[0], check_values=validate)
    _check_loss(loss, targets)
    tensors = {"x": x, "y": integer_labels(y, x, "y")}
    if targets is not None:
        tensors["targets"] = integer_labels(targets, x, "targets")
    if sample_ids is not None:
        tensors["sample_ids"] = integer_labels(sample_ids, x, "sample_ids")
    if normalization is not None:
        dtype = compute_dtype(x)
        if x.dtype != dtype:  # its rounding would carry the result out of a ball given in pixels
            raise ValueError(f"normalization needs float32 or float64 data, got {x.dtype}: pass x.float()")
        for name, value in zip(("mean", "std"), normalization, strict=True):
            tensors[name] = _channelwise(value, name, x)
    sizes = {"eps": eps, "step_size": step_size}
    tensors |= {name: size for name, size in sizes.items() if isinstance(size, Tensor)}
    numbers = {name: None if isinstance(size, Tensor) else float(size) for name, size in sizes.items()}
    tensors = {name: _recordable(t.detach()) for name, t in tensors.items()}
    labels = Labels(_look(tensors, lower, upper) if validate else None)
    return Terms(norm, numbers["eps"], numbers["step_size"], loss, lower, upper), tensors, labels


def check_batch(x: Tensor, y: Tensor, bounds: Bounds, sample_ids: Tensor | None) -> None:
    """Raises TypeError or ValueError for inputs, labels or ids that no attack takes, in types, shapes and values."""
    check_images(x)
    nothing: dict[str, Any] = {"targets": None, "normalization": None}
    found = checked(
        x, y, 0.0, 0.0, "linf", loss="ce", bounds=bounds, sample_ids=sample_ids, validate=True, **nothing
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


def _check_loss(loss: ops.LossKind | LossFunction, targets: Tensor | None) -> None:
    if callable(loss):
        return
    if loss not in ops.LOSS_KINDS:
        raise ValueError(f"loss must be a function or one of {', '.join(ops.LOSS_KINDS)}, got {loss!r}")
    if loss == "dlr_targeted" and targets is None:
        raise ValueError("loss 'dlr_targeted' needs targets")
    if loss == "kl" and targets is not None:
        raise ValueError("loss 'kl' has no targets: it moves the prediction away from that on x")


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


def _look(tensors: Tensors, lower: float, upper: float) -> Callable[[], int] | None:
    """Asks for what is inside the tensors, in one read-back for all of them, which the result does: it raises
    ValueError or returns the highest label."""
    x = tensors["x"]
    if x.numel() == 0 or capturing(x):
        return None
    labels = [name for name in ("y", "targets") if name in tensors]
    sizes = [name for name in ("eps", "step_size") if name in tensors]
    looks = [*pixels(tensors).aminmax(), *(v for name in labels for v in tensors[name].aminmax())]
    looks += [tensors[name].min() for name in sizes]
    found = torch.stack([v.to(torch.float64) for v in looks])

    def read() -> int:
        lowest, highest, *rest = found.tolist()
        ends = [abs(end) for end in (lower, upper) if math.isfinite(end)]
        slack = TOLERANCE * (upper - lower if len(ends) == 2 else max([1.0, *ends]))
        if ends and not (lowest >= lower - slack and highest <= upper + slack):
            raise ValueError(_outside_message(lowest, highest, lower, upper, "mean" in tensors))
        for i, name in enumerate(labels):
            if rest[2 * i] < 0:
                raise ValueError(f"{name} must be >= 0, got {int(rest[2 * i])}")
        for name, smallest in zip(sizes, rest[2 * len(labels) :], strict=True):
            if not smallest >= 0:
                raise ValueError(f"{name} must be >= 0, got {smallest}")
        return int(max(rest[2 * i + 1] for i in range(len(labels))))

    return read


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
