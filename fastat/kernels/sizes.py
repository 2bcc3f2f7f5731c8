"""Radii, step sizes and the ends of the box: numbers, one per sample, or tensors that broadcast against the inputs."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from fastat.support.threat import as_float

Size = float | Tensor
"""A number; one per sample, ``[B]``; or any tensor that broadcasts against the inputs: ``[B, 1, H, W]``, ``[C, 1, 1]``.

``[B]`` is refused where the last dimension of the inputs has B entries too: a tensor of as many dimensions as the
inputs says which of the two is meant.
"""

Box = tuple[Size | None, Size | None] | None
"""The box of valid inputs (lower, upper), each end of it a size; None, for the box or one end of it, for no bound."""


def check_size(value: Size, name: str, x: Tensor, check_values: bool = True) -> None:
    """Checks a radius or step size for inputs ``x`` [B, ...]: numbers >= 0, in a floating-point tensor that fits.

    Values inside a tensor are looked at only where that costs no synchronization (CPU) and ``check_values`` allows it.
    """
    most = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).max
    if isinstance(value, Tensor):
        spread(value, name, x)
        if check_values and value.device.type == "cpu" and not torch.compiler.is_compiling():
            for bad, rule in ((~(value >= 0), ">= 0"), (value.double() > most, f"at most {most:g}")):
                if bad.any():
                    raise ValueError(f"{name} must be {rule}, got {value[bad].flatten()[0].item()}")
        return
    if isinstance(value, bool) or not isinstance(value, Real):
        cure = ": torch.as_tensor(...)" if type(value).__name__ == "ndarray" else ""
        raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}{cure}")
    number = as_float(value)
    if not number >= 0:
        raise ValueError(f"{name} must be >= 0, got {value}")
    if name == "step_size" and number > most:
        raise ValueError(f"step_size must be at most {most:g}, got {value}")


def spread(value: Tensor, name: str, x: Tensor) -> Tensor:
    """The same numbers with as many dimensions as ``x``, to broadcast against it.

    Raises:
        TypeError, ValueError: it is not floating-point, on another device, does not fit, or could be meant in two ways.
    """
    if not value.is_floating_point() and value.dtype != torch.bool:
        raise TypeError(f"{name} must be a floating-point tensor, got dtype {value.dtype}")
    if value.device != x.device:
        raise ValueError(f"{name} must be on {x.device}, got {value.device}")
    shape, batch = list(x.shape), x.shape[0]
    if value.dim() == 1 and len(value) == batch != 1:
        if x.dim() > 1 and shape[-1] == batch:
            each, last = ", ".join(["-1"] + ["1"] * (x.dim() - 1)), ", ".join(["1"] * (x.dim() - 1) + ["-1"])
            raise ValueError(
                f"{name} of shape [{batch}] may be one per sample or one per entry of the last dimension of x {shape}: "
                f"pass {name}.view({each}) for the first, {name}.view({last}) for the second"
            )
        return value.view(batch, *[1] * (x.dim() - 1))
    full = [1] * (x.dim() - value.dim()) + list(value.shape)
    if len(full) != x.dim() or any(n not in (1, most) for n, most in zip(full, shape, strict=True)):
        others = "" if value.dtype == torch.bool else "be a number, one per sample [{batch}], or a tensor that "
        does = "broadcast" if value.dtype == torch.bool else "broadcasts"
        raise ValueError(
            f"{name} must {others.format(batch=batch)}{does} against x {shape}, got shape {list(value.shape)}"
        )
    return value.view(full)


def one_per_sample(full: Tensor) -> bool:
    """Whether a tensor of as many dimensions as the inputs is the same for all of a sample."""
    return all(n == 1 for n in full.shape[1:])


def inward(end: Tensor, dtype: torch.dtype, *, up: bool) -> Tensor:
    """An end of the box for data in half precision: the next number of that dtype which is not outside of it, in the
    dtype of ``end``."""
    near = end.to(dtype)
    outside = near.to(end.dtype) < end if up else near.to(end.dtype) > end
    bits = near.view(torch.int16)
    away_from_zero = (near > 0) if up else (near < 0)
    step = torch.where(away_from_zero, 1, -1)
    beyond_zero = torch.full_like(bits, 1 if up else -32767)
    further = torch.where(near == 0, beyond_zero, bits + step).to(torch.int16)
    return torch.where(outside, further, bits).view(dtype).to(end.dtype)


def in_layout(values: Tensor, like: Tensor) -> Tensor:
    """Numbers per element, of as many dimensions as ``like``, laid in memory as its samples are: for one sample or, if
    they differ, for all. A vector, of one number per sample, stays as it is."""
    if values.dim() != like.dim() or like.dim() == 1:
        return values
    samples = like[: values.shape[0]].detach()
    wanted = values.expand(samples.shape)
    if wanted.stride() == samples.stride():
        return wanted
    return torch.empty_like(samples, dtype=values.dtype).copy_(wanted)
