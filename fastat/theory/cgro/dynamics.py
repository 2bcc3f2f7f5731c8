"""Adversarial training of a cubic network on patch data: what it learns, and what it learns by heart."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fastat.support.keyed import derive_seed
from fastat.theory.cgro.patches import PatchData
from fastat.theory.cgro.stages import FITTED, Stages, detect_stages

POWER = 3
"""q of the activation <w, x>^q: the least that is odd, so that the class's sign survives, and not linear."""

_WEIGHTS = 0x3E  # the purpose in the key of the random numbers
_LOOK_EVERY = 10  # steps between two looks at the margins: each waits for the device
_TAIL = 0.2  # how much longer training goes on once every sample is fitted


@dataclass(frozen=True, eq=False)
class Dynamics:
    """A training run: T steps, and the network before each of them and at the end.

    Attributes:
        U: the true feature sum_r <w_r, w*>^3, [T + 1]. It never falls.
        V: the memorized noise y_i sum_r sum_{j != signal} <w_r, X_ij>^3, [T + 1, N].
        train_margin: y_i f at the worst case of each training sample, (alpha - delta)^3 U + V_i, [T + 1, N].
        stages: where the run's three stages begin.
        measured: the steps at which the accuracies on test samples were taken; the first is 0, the last T.
        clean_test: accuracy on fresh samples, at these steps.
        robust_test: accuracy on the worst cases of fresh samples, at these steps.
        weights: w_r at the end, [m, d].
    """

    U: Tensor
    V: Tensor
    train_margin: Tensor
    stages: Stages
    measured: list[int]
    clean_test: list[float]
    robust_test: list[float]
    weights: Tensor

    @property
    def steps(self) -> int:
        """T."""
        return len(self.U) - 1

    @property
    def robust_train(self) -> Tensor:
        """Fraction of the training samples whose worst case has a positive margin, [T + 1]."""
        return (self.train_margin > 0).double().mean(1)


def train_dynamics(
    train: PatchData,
    test: PatchData,
    delta: float = 0.8,
    *,
    filters: int = 200,
    init_scale: float = 0.1,
    step_size: float = 1.0,
    max_steps: int = 10_000,
    measure_every: int | None = 10,
    seed: int = 0,
) -> Dynamics:
    """Gradient descent on the logistic loss of the worst cases, (1/N) sum_i log(1 + exp(-y_i f(X_i'))).

    The setting of Li and Li (ICML 2025), section "training dynamics". The network is f(X) = sum_r sum_j <w_r, X_j>^3,
    with w_r ~ N(0, init_scale^2 I). The adversary moves the signal patch along w* by delta at most. f rises with the
    signal as long as U >= 0, so its best move leaves (alpha - delta) y w*; U(0) < 0 is turned into U(0) > 0 by
    reflecting the filters' components along w*, and from then on each step only adds to them.

    Filters move in the span of w* and of the training noise. So the run follows <w_r, w*> and <w_r, X_ij>, whose
    gradients need the noise's Gram matrix, not d: the same numbers for less work. It ends 20% of its steps after every
    training margin has reached 1, or at ``max_steps``.

    The accuracies are exact in the signal: on fresh samples, of which only the noise is drawn, y f is alpha^3 U + V and
    in the worst case (alpha - delta)^3 U + V.

    Args:
        train: the training samples.
        test: fresh samples with the same w* and alpha.
        delta: in (0, alpha).
        filters: m, at least 1.
        init_scale: standard deviation of each number of the first filters, above 0.
        step_size: of the descent, above 0.
        max_steps: steps after which a run ends that has not fitted its samples, at least 1.
        measure_every: steps between two measurements on the test samples, beside those before the first step and at
            the end; None for these two only.
        seed: of the first filters.

    Raises:
        ValueError: an argument out of its range, noise with a component along w*, or test samples around another w*.
        FloatingPointError: the descent diverged; a smaller step_size may help.
    """
    _check(train, test, delta, filters, init_scale, step_size, max_steps, measure_every)
    noise = train.x[:, 1:].flatten(0, 1)
    per_sample = train.x.shape[1] - 1
    fresh = test.x[:, 1:].flatten(0, 1)
    first = _first_filters(train, filters, init_scale, seed)
    along = first @ train.w_star

    # a filter is its first value, what it gained along w*, and a combination of the training noise by factors in moved
    gram, onto_fresh = noise @ noise.T, noise @ fresh.T
    on_noise, first_on_fresh = first @ noise.T, first @ fresh.T
    moved = torch.zeros_like(on_noise)
    y, rate = train.y.repeat_interleave(per_sample), step_size * POWER / len(train.y)
    left = (train.alpha - delta) ** POWER

    features: list[Tensor] = []
    memories: list[Tensor] = []
    found: list[tuple[int, Tensor]] = []

    def measure(step: int) -> None:
        memory = test.y * _sum(first_on_fresh + moved @ onto_fresh, len(test.y))
        margins = torch.stack([train.alpha**POWER * features[step] + memory, left * features[step] + memory])
        found.append((step, (margins > 0).double().mean(1)))

    last = max_steps
    for step in range(max_steps + 1):
        features.append(along.pow(POWER).sum())
        memories.append(train.y * _sum(on_noise, len(train.y)))
        margin = left * features[-1] + memories[-1]
        if last == max_steps and step % _LOOK_EVERY == 0:
            least = float(margin.min())
            if not math.isfinite(least):
                raise FloatingPointError(f"the descent diverged before step {step}: step_size {step_size} is too large")
            if least >= FITTED:
                last = min(max_steps, math.ceil(step * (1 + _TAIL)))
        if step in (0, last) or (measure_every is not None and step % measure_every == 0):
            measure(step)
        if step == last:
            break
        pull = torch.sigmoid(-margin)
        along = along + step_size * POWER * left * pull.mean() * along.square()
        push = rate * on_noise.square() * (y * pull.repeat_interleave(per_sample))
        moved = moved + push
        on_noise = on_noise + push @ gram

    margins = left * torch.stack(features)[:, None] + torch.stack(memories)
    accuracies = torch.stack([pair for _, pair in found]).cpu()
    return Dynamics(
        torch.stack(features).cpu(),
        torch.stack(memories).cpu(),
        margins.cpu(),
        detect_stages(torch.stack(memories).cpu(), margins.cpu()),
        [step for step, _ in found],
        accuracies[:, 0].tolist(),
        accuracies[:, 1].tolist(),
        (first + (along - first @ train.w_star)[:, None] * train.w_star + moved @ noise).cpu(),
    )


def _first_filters(train: PatchData, filters: int, init_scale: float, seed: int) -> Tensor:
    """[m, d], such that U >= 0."""
    generator = torch.Generator().manual_seed(derive_seed(seed, _WEIGHTS))
    first = torch.randn(filters, train.x.shape[2], generator=generator, dtype=torch.float64) * init_scale
    first = first.to(train.x.device)
    along = first @ train.w_star
    return first if float(along.pow(POWER).sum()) >= 0 else first - 2 * along[:, None] * train.w_star


def _sum(projections: Tensor, samples: int) -> Tensor:
    """sum_r sum_j <w_r, X_ij>^3 of each sample, [samples], from the projections [m, samples * patches]."""
    return projections.pow(POWER).sum(0).view(samples, -1).sum(1)


def _check(
    train: PatchData,
    test: PatchData,
    delta: float,
    filters: int,
    init_scale: float,
    step_size: float,
    max_steps: int,
    measure_every: int | None,
) -> None:
    if not 0 < delta < train.alpha:
        raise ValueError(f"delta must be above 0 and below alpha = {train.alpha}, got {delta}")
    for name, value in (("init_scale", init_scale), ("step_size", step_size)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be finite and above 0, got {value}")
    for name, count in (("filters", filters), ("max_steps", max_steps), ("measure_every", measure_every)):
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    if test.alpha != train.alpha or not torch.equal(test.w_star, train.w_star):
        raise ValueError("test must have the alpha and the w_star of train: draw it with the same seed")
    for name, data in (("train", train), ("test", test)):
        component = float((data.x[:, 1:] @ data.w_star).abs().max())
        if component > 1e-9 * float(data.x.abs().max()):
            raise ValueError(f"the noise patches of {name} must be orthogonal to w_star, got a component {component:g}")
