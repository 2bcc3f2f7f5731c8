"""The checks and conversions that bring an op's arguments into the form its kernel takes.

What a user can get wrong becomes a TypeError or ValueError that names the argument and the value. Memory layouts the
kernels do not know are copied into ones they do.
"""

import math
from numbers import Integral, Real

import torch
from torch import Tensor

from fastat.kernels._extension import CUDA_BUILD, CUDA_MISSING, REBUILD_HINT
from fastat.kernels.sizes import Size, check_size, inward, one_per_sample, spread
from fastat.support.threat import Norm, as_float

_HALVES = (torch.float16, torch.bfloat16)
_FLOATS = (torch.float32, torch.float64, *_HALVES)


def check_dense(t: Tensor, name: str) -> None:
    if t.layout != torch.strided or t.is_nested or t.is_quantized:
        found = "a nested one" if t.is_nested else "a quantized one" if t.is_quantized else t.layout
        raise TypeError(f"{name} must be a dense tensor, got {found}")


def check_data(t: Tensor, name: str) -> None:
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(t).__name__}")
    check_dense(t, name)
    if t.dtype not in _FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {t.dtype}")
    if t.dim() == 0:
        raise ValueError(f"{name} must have a batch dimension, got a 0-d tensor")
    if t.device.type == "cuda" and CUDA_BUILD is None:
        raise RuntimeError(f"{name} is on {t.device}, but {CUDA_MISSING}; {REBUILD_HINT}")
    if t.device.type not in ("cpu", "cuda"):
        raise ValueError(f"{name} must be on the CPU or a CUDA device, got {t.device}")


def check_like(t: Tensor, other: Tensor, name: str) -> None:
    check_data(t, name)
    if t.shape != other.shape:
        raise ValueError(f"{name} must have shape {list(other.shape)}, got {list(t.shape)}")
    if t.dtype != other.dtype:
        raise TypeError(f"{name} must have dtype {other.dtype}, got {t.dtype}")
    if t.device != other.device:
        raise ValueError(f"{name} must be on {other.device}, got {t.device}")


def compute_dtype(t: Tensor) -> torch.dtype:
    """What the ops compute in for this data."""
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def widened(t: Tensor) -> Tensor:
    """The same numbers as float64 if they are that, else as float32: what the ops compute in."""
    return t.to(compute_dtype(t))


def sized(value: Size, name: str, x: Tensor, norm: Norm) -> tuple[float, Tensor | None]:
    """A radius or step size as the ops take it: a number; a vector of one per sample; for linf also one per element, of
    as many dimensions as ``x``. Tensors in the compute type."""
    check_size(value, name, x)
    if not isinstance(value, Tensor):
        return as_float(value), None
    full = spread(value.detach(), name, x).to(compute_dtype(x))
    if one_per_sample(full):
        return 0.0, full.reshape(-1).expand(x.shape[0])
    if norm != "linf":
        raise ValueError(
            f"{name} must be a number or one per sample for norm {norm!r}, which is one number for a sample, "
            f"got shape {list(value.shape)}"
        )
    return 0.0, full


def integer_labels(y: Tensor, data: Tensor, name: str) -> Tensor:
    """An integer vector with one entry per sample as contiguous int64."""
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        cure = f": {name}.long() makes one of classes" if isinstance(y, Tensor) else f": torch.as_tensor({name})"
        raise TypeError(f"{name} must be an integer tensor, got {getattr(y, 'dtype', type(y).__name__)}{cure}")
    check_dense(y, name)
    if y.shape != (data.shape[0],):
        raise ValueError(f"{name} must have shape [{data.shape[0]}], got {list(y.shape)}")
    if y.device != data.device:
        raise ValueError(f"{name} must be on {data.device}, got {y.device}")
    return y.to(torch.int64).contiguous()


def class_labels(y: Tensor, logits: Tensor, name: str) -> Tensor:
    y = integer_labels(y, logits, name)
    if y.device.type == "cpu" and len(y) > 0 and not torch.compiler.is_compiling():
        lowest, highest = y.aminmax()
        classes = logits.shape[1]
        if lowest < 0 or highest >= classes:
            value = (lowest if lowest < 0 else highest).item()
            raise ValueError(f"{name} must hold classes in [0, {classes}), got {value}")
    return y


def check_logits(logits: Tensor, name: str = "logits") -> None:
    """TypeError or ValueError unless the logits are ``[B, C]`` with C >= 2."""
    check_data(logits, name)
    if logits.dim() != 2 or logits.shape[1] < 2:
        raise ValueError(f"{name} must be [B, C] with C >= 2, got {list(logits.shape)}")


def logits_pair(logits: Tensor, logits_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Clean and adversarial logits ``[B, C]`` in the compute type, and their labels."""
    check_logits(logits)
    check_like(logits_adv, logits, "logits_adv")
    labels = class_labels(y, logits, "y")
    return widened(logits), widened(logits_adv), labels


def check_integer(value: object, name: str, least: int, what: str = "") -> None:
    """ValueError for anything but a whole number from ``least`` on, of 63 bits; ``what`` says more of it."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be an integer >= {least}{what}, got {value!r}")
    if int(value) >= 2**63:
        raise ValueError(f"{name} must be less than 2**63, got {value!r}")


def check_number(value: object, name: str, above: bool = False) -> float:
    """A finite number >= 0, or above 0, as a float; TypeError or ValueError for anything else. A tensor or an array of
    no dimensions is the number in it."""
    if getattr(value, "ndim", None) == 0 and not (isinstance(value, Tensor) and value.device.type == "meta"):
        value = value.item()  # type: ignore[attr-defined]
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    number = as_float(value)
    if not (0 < number < math.inf or (number == 0 and not above)):
        raise ValueError(f"{name} must be a finite number {'above' if above else '>='} 0, got {value}")
    return number


def box(lower: Size | None, upper: Size | None, x: Tensor) -> tuple[float, float, Tensor | None, Tensor | None]:
    """The ends as the ops take them: numbers, infinite for None, and where an end is a tensor one number per element,
    of as many dimensions as ``x``, in the compute type.

    For data in half precision they are moved inward to numbers of that dtype, where there is one between them.
    """
    ends: list[tuple[float, Tensor | None]] = []
    for value, name, none in ((lower, "lower", -math.inf), (upper, "upper", math.inf)):
        if isinstance(value, Tensor):
            ends.append((none, spread(value.detach(), name, x).to(compute_dtype(x))))
        elif value is None:
            ends.append((none, None))
        elif isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number, a tensor or None, got {type(value).__name__}")
        else:
            ends.append((as_float(value), None))
    (low, lows), (high, highs) = ends
    most = torch.finfo(x.dtype).max
    if low > most or high < -most:
        raise ValueError(f"lower must be at most {most:g}, upper at least {-most:g}, got lower={lower}, upper={upper}")
    if lows is None and highs is None:
        if not low <= high:
            raise ValueError(f"lower must be <= upper, got lower={lower}, upper={upper}")
    elif x.device.type == "cpu" and not torch.compiler.is_compiling():
        right = torch.as_tensor(low if lows is None else lows) <= (high if highs is None else highs)
        if not bool(right.all()):
            raise ValueError("lower must be <= upper, got entries for which it is not")
        if (lows is not None and (lows > most).any()) or (highs is not None and (highs < -most).any()):
            raise ValueError(f"lower must be at most {most:g}, upper at least {-most:g}, got entries that are not")
    if x.dtype in _HALVES:
        return _inward(low, high, lows, highs, x)
    return low, high, lows, highs


def _inward(
    low: float, high: float, lows: Tensor | None, highs: Tensor | None, x: Tensor
) -> tuple[float, float, Tensor | None, Tensor | None]:
    if lows is None and highs is None:
        inner_low, inner_high = _number_inward(low, x.dtype, up=True), _number_inward(high, x.dtype, up=False)
        return (inner_low, inner_high, None, None) if inner_low <= inner_high else (low, high, None, None)
    first, inner_first = _ends_inward(lows, highs, low, x.dtype, up=True)
    last, inner_last = _ends_inward(highs, lows, high, x.dtype, up=False)
    some = inner_first <= inner_last
    return low, high, torch.where(some, inner_first, first), torch.where(some, inner_last, last)


def _ends_inward(
    ends: Tensor | None, others: Tensor | None, number: float, dtype: torch.dtype, *, up: bool
) -> tuple[Tensor, Tensor]:
    """One end of the box, as it is and moved inward; where it is a number, like the other end, a tensor."""
    if ends is not None:
        return ends, inward(ends, dtype, up=up)
    assert others is not None
    most = torch.finfo(others.dtype).max
    near = number if math.isinf(number) else max(-most, min(most, number))
    return torch.full_like(others, near), torch.full_like(others, _number_inward(number, dtype, up=up))


def _number_inward(end: float, dtype: torch.dtype, *, up: bool) -> float:
    """:func:`fastat.kernels.sizes.inward` of a number, without a tensor."""
    if end == 0 or math.isinf(end):
        return end
    digits, least = (11, -24) if dtype == torch.float16 else (8, -133)
    unit = 2.0 ** max(math.frexp(end)[1] - digits, least)
    number = (math.ceil(end / unit) if up else math.floor(end / unit)) * unit
    largest = torch.finfo(dtype).max
    if abs(number) > largest:
        return math.copysign(largest if (number > 0) != up else math.inf, number)
    return number


def row_major_or_channels_last(t: Tensor) -> bool:
    if t.is_contiguous():
        return True
    if t.dim() == 4:
        return t.is_contiguous(memory_format=torch.channels_last)
    return t.dim() == 5 and t.is_contiguous(memory_format=torch.channels_last_3d)


def samples_dense(t: Tensor) -> bool:
    """Whether the samples lie one after the other in memory, each dense, in whatever order inside."""
    if row_major_or_channels_last(t):
        return True
    size = 1
    for stride, length in sorted((s, n) for s, n in zip(t.stride()[1:], t.shape[1:], strict=True) if n != 1):
        if stride != size:
            return False
        size *= length
    return t.shape[0] == 1 or t.stride(0) == size


def aligned(t: Tensor, like: Tensor) -> Tensor:
    """``t`` in the memory layout of ``like``."""
    t = t.detach()
    return t if t.stride() == like.stride() else torch.empty_like(like).copy_(t)
