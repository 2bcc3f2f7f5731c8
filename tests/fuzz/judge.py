"""What must hold of a result: no second implementation, only what the documentation promises, in float64.

A rule yields a few words for each promise that is broken; the same words are the same fault. It is asked about calls
that were accepted, whatever their arguments were, so it takes those into account: a sample that was NaN to begin with
may stay so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .geometry import MODERATE, ends_of, outside_ball, outside_box, spread, unit, whole_samples, wide


@dataclass(frozen=True)
class Arguments:
    """Of a call: copies of them as they were before it, and the objects themselves."""

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    norm: str | None

    def get(self, name: str, default: Any = None) -> Any:
        return self.before.get(name, default)


Rule = Callable[[Arguments, Any], Iterator[str]]


def anything(a: Arguments, result: Any) -> Iterator[str]:
    yield from ()


def nothing(a: Arguments, result: Any) -> Iterator[str]:
    if result is not None:
        yield "returned something"


def described(a: Arguments, result: Any) -> Iterator[str]:
    """A value with words for a title, equal to itself."""
    if not str(result) or result != result:
        yield "is no value"


# points


def step(a: Arguments, result: Any) -> Iterator[str]:
    """An op that writes ``x_adv`` in place."""
    if result is not a.after["x_adv"]:
        yield "did not return x_adv"
    yield from _point(a, result, a.get("x_adv"), (a.get("lower", 0.0), a.get("upper", 1.0)), a.get("eps"))


def linf_step(a: Arguments, result: Any) -> Iterator[str]:
    """The same, whose result is a formula too."""
    yield from step(a, result)
    x = a.get("x")
    at, grad, centre = (wide(a.get(name)) for name in ("x_adv", "grad", "x"))
    size, eps = (spread(a.get(name), x) for name in ("step_size", "eps"))
    low, high = spread(a.get("lower", 0.0), x, -math.inf), spread(a.get("upper", 1.0), x, math.inf)
    moved = at + size * grad.sign().nan_to_num(0)
    expected = torch.minimum(torch.maximum(centre + torch.clamp(moved - centre, -eps, eps), low), high)
    fine = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}.get(x.dtype, unit(x))
    rounding = 8 * fine * (centre.abs() + at.abs() + size + expected.abs()) + 1e-7 * (fine > unit(x)) + 1e-37
    usual = centre.abs() + at.abs() + size < min(MODERATE, torch.finfo(x.dtype).max / 4)
    if (((wide(result) - expected).abs() > rounding) & usual & (low <= high)).any():
        yield "is not the step of the formula"


def start(a: Arguments, result: Any) -> Iterator[str]:
    """A new point."""
    yield from _like(result, a.get("x"))
    yield from _point(a, result, a.get("x"), (a.get("lower", 0.0), a.get("upper", 1.0)), a.get("eps"))


def attack(a: Arguments, result: Any) -> Iterator[str]:
    """Adversarial examples."""
    x, bounds, mask = a.get("x"), a.get("bounds", (0.0, 1.0)), a.get("mask")
    yield from _like(result, x)
    moved = result
    if mask is not None:
        still = (spread(mask, x) == 0).expand(x.shape)
        if not torch.equal(result[still], x[still]):
            yield "moved what the mask holds"
        low, high = ends_of(bounds or (None, None), x)
        inside = torch.minimum(torch.maximum(wide(x), low), high)
        moved = torch.where(still, inside.to(x.dtype), result)
    if a.get("normalization") is None:
        eps = a.get("eps", 8 / 255) if a.get("clip", True) else math.inf
        yield from _point(a, moved, x, bounds or (None, None), eps)


def _point(a: Arguments, result: Tensor, origin: Tensor, box: Any, eps: Any) -> Iterator[str]:
    """In the box, finite and in the ball around ``x``, where what went in was."""
    x, norm = a.get("x"), a.get("norm", a.norm or "linf")
    low, high = ends_of(box, x)
    yield from outside_box(result, x, low, high)
    centre, at = wide(x), wide(origin)
    usual = centre.isfinite() & at.isfinite()
    if isinstance(start := a.get("start"), Tensor) and not a.get("validate", True):
        usual = usual & wide(start).isfinite()  # nobody has looked at it
    length = a.get("step_size", 0.0 if a.get("x_adv") is not None else eps)
    reach = torch.zeros(()) if length is None or callable(length) else spread(length, x)
    small = centre.abs() + at.abs() + reach < min(MODERATE, torch.finfo(x.dtype).max / 4)
    good = usual & small if norm == "linf" else whole_samples(usual & small)
    if (~wide(result).isfinite() & good).any():
        yield "is not finite"
    trusted = usual & (centre >= low) & (centre <= high)
    grid = (2e-3 / a.get("quantize") * (high - low)).amax().item() * x[:1].numel() if a.get("quantize") else 0.0
    yield from outside_ball(result, x, spread(eps, x), norm, trusted, grid)


def _like(result: Tensor, x: Tensor) -> Iterator[str]:
    if (result.shape, result.dtype, result.device) != (x.shape, x.dtype, x.device) or result.requires_grad:
        yield "is not like x"


# losses


def loss_and_gradient(a: Arguments, result: Any) -> Iterator[str]:
    """Of attacks."""
    logits, (loss, grad) = a.get("logits"), result
    yield from _numbers(loss, logits.shape[:1], _moderate(a, "logits", "reference"))
    if (grad.shape, grad.dtype) != (logits.shape, logits.dtype):
        yield "gradient is not like the logits"
    formula = _FORMULAS.get(a.get("kind", "ce"))
    if formula is None or not _moderate(a, "logits"):
        return
    expected = formula(wide(logits), a.get("y").long()[:, None])
    near = 1e-5 * (expected.abs() + wide(logits).abs().amax(1) + 1) if logits.numel() else 0
    if ((wide(loss) - expected).abs() > near).any():
        yield "is not the loss"


def _margin(z: Tensor, y: Tensor) -> Tensor:
    return z.scatter(1, y, -math.inf).amax(1) - z.gather(1, y)[:, 0]


def _cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return z.logsumexp(1) - z.gather(1, y)[:, 0]


_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"margin": _margin, "ce": _cross_entropy}


def one_loss(a: Arguments, result: Any) -> Iterator[str]:
    """0-d and, of moderate numbers, finite and at least 0, if no loss that was given is less."""
    looked_at = ("features",) if a.get("beta") != 0 else ()
    given = a.get("losses")
    least = -math.inf if given is not None and (given < 0).any() else -1e-4
    yield from _numbers(result, (), _moderate(a, "logits", "losses", "beta", *looked_at), least=least)


def losses(a: Arguments, result: Any) -> Iterator[str]:
    """One for each sample, or their mean."""
    batch = a.get("logits").shape[:1]
    moderate = _moderate(a, "logits", "logits_adv", "beta", "lam") and len(a.get("logits")) > 0
    yield from _numbers(result, batch if a.get("reduction") == "none" else (), moderate, least=-1e-4)


def losses_of_images(a: Arguments, result: Any) -> Iterator[str]:
    yield from _numbers(result, a.get("x").shape[:1], finite=False, least=-1e-4)


def misalignment(a: Arguments, result: Any) -> Iterator[str]:
    if result.shape != () or not (result.isnan() or -1e-2 <= result <= 2.01):
        yield "is out of its range"


def of_a_network(a: Arguments, result: Any) -> Iterator[str]:
    """0-d; a network may make it what it likes."""
    yield from _numbers(result, (), finite=False, least=-1e-4)


def outcome(a: Arguments, result: Any) -> Iterator[str]:
    yield from of_a_network(a, result.loss)
    if result.x_adv.shape != a.get("x").shape:
        yield "x_adv is not like x"


def _numbers(
    result: Any, shape: tuple[int, ...], finite: bool, least: float = -math.inf, most: float = math.inf
) -> Iterator[str]:
    if not isinstance(result, Tensor) or result.shape != shape or result.dtype not in (torch.float32, torch.float64):
        yield "is not a loss of the documented shape and type"
    elif finite and not result.isfinite().all():
        yield "is not finite"
    elif ((wide(result) < least) | (wide(result) > most)).any():
        yield "is out of its range"


def _moderate(a: Arguments, *names: str) -> bool:
    """Whether arguments hold nothing that may overflow."""
    found = [a.get(name) for name in names]
    tensors = [one if isinstance(one, Tensor) else torch.as_tensor(float(one)) for one in found if one is not None]
    return all(bool((wide(t).abs() < MODERATE).all()) for t in tensors)


# weights


def shares(a: Arguments, result: Any) -> Iterator[str]:
    """Weights of a distribution."""
    found = torch.as_tensor(result)
    if found.shape != torch.as_tensor(a.get("losses")).shape or not (found >= 0).all():
        yield "are no weights"
    elif abs(wide(found).sum().item() - 1) > 1e-5:
        yield "do not sum to 1"


def within_losses(a: Arguments, result: Any) -> Iterator[str]:
    """Between mean and maximum."""
    given = wide(a.get("losses"))
    slack = 1e-5 * given.abs().amax()
    yield from _numbers(result, (), True, (given.mean() - slack).item(), (given.amax() + slack).item())


def weights(a: Arguments, result: Any) -> Iterator[str]:
    """In (0, 1]; NaN for logits that are."""
    yield from _numbers(result, a.get("logits").shape[:1], _moderate(a, "logits"), least=1e-40, most=1.0)


# plain numbers


def confidence(a: Arguments, result: Any) -> Iterator[str]:
    if not 0 <= result <= 1:
        yield "is out of its range"


def interval(a: Arguments, result: Any) -> Iterator[str]:
    if (
        not 0 <= result[0] <= a.get("accuracy") + 0.5 / a.get("n")
        or not a.get("accuracy") - 0.5 / a.get("n") <= result[1] <= 1
    ):
        yield "does not hold the accuracy"


# evaluations


def accuracies(a: Arguments, result: Any) -> Iterator[str]:
    if not all(0 <= share <= 1 for share in (*result.accuracy.values(), result.worst_case)) or not str(result):
        yield "is out of its range"
    clean = result.correct["clean"]
    if any((found & ~clean).any() for found in result.correct.values()):
        yield "counts as robust what is wrong without an attack"


def curve(a: Arguments, result: Any) -> Iterator[str]:
    radii = [float(eps) for eps in a.get("eps_list")] if hasattr(a.get("eps_list"), "__len__") else range(len(result))
    ordered = [share for _, share in sorted(zip(radii, result, strict=True))]
    if any(not 0 <= share <= 1 for share in ordered) or ordered != sorted(ordered, reverse=True):
        yield "is no curve that falls"


def classes(a: Arguments, result: Any) -> Iterator[str]:
    if result.dtype != torch.int64:
        yield "are no classes"


def logits_and_features(a: Arguments, result: Any) -> Iterator[str]:
    logits, features = result
    if logits.dim() != 2 or features.dim() != 2 or len(logits) != len(features):
        yield "are no logits and features"
