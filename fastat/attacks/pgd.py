"""Projected gradient descent (Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018)."""

from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from fastat import ops
from fastat.attacks.inputs import Normalization, Problem, check_images, check_start, prepare
from fastat.engine import LossFunction, Model, attacking, couples_samples
from fastat.threat import Bounds, Norm, check_size


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor = 8 / 255,
    step_size: float | Tensor | None = None,
    steps: int = 10,
    norm: Norm = "linf",
    *,
    loss: ops.LossKind | LossFunction = "ce",
    targets: Tensor | None = None,
    start: Tensor | None = None,
    random_start: bool = True,
    restarts: int = 1,
    bounds: Bounds = (0.0, 1.0),
    keep: Literal["last", "best"] = "last",
    early_stop: bool = False,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    normalization: Normalization | None = None,
    validate: bool = True,
) -> Tensor:
    """Adversarial examples by projected gradient ascent on the loss, in an lp-ball around ``x``.

    With the same start and loss gradients, float32 linf iterates have the bits of the textbook loop
    ``x_adv = (x + (x_adv + step_size * grad.sign() - x).clamp(-eps, eps)).clamp(*bounds)``. The model may be in any
    mode, compiled, wrapped in DistributedDataParallel, or a plain function; it is left as found (mode,
    ``requires_grad``, ``.grad``; buffers, if it is in eval mode). Works under autocast, ``no_grad`` and
    ``inference_mode``.

    Args:
        model: maps inputs ``[B, ...]`` to logits ``[B, C]``.
        x: inputs ``[B, ...]`` within ``bounds``, any float dtype; the attack's state is float32 or float64.
        y: integer labels ``[B]`` in [0, C).
        eps: radius >= 0, a number or one per sample ``[B]``, in the units of the bounds.
        step_size: length of a step, a number or one per sample; None for ``2.5 * eps / steps``.
        steps: number of gradient steps, >= 0.
        norm: "linf", "l2" or "l1" (sparse steps, see :func:`fastat.ops.l1_step_`).
        loss: a kind of :func:`fastat.ops.attack_loss` ("kl" ascends the divergence from the prediction on ``x``, as in
            TRADES), or a function ``(output, y) -> loss [B]``.
        targets: classes ``[B]`` to be predicted instead: the loss towards them is descended, and a sample is won when
            its target is predicted.
        start: first iterate ``[B, ...]`` (projected first); later restarts start at random.
        random_start: start uniformly in the ball, else at ``x``.
        restarts: independent runs; per sample a misclassified result wins, else the one of highest loss.
        bounds: the box (lower, upper) of valid inputs; None for no box.
        keep: "last" returns the last iterate, "best" the one with the highest loss, the start included.
        early_stop: return, per sample, the first iterate (the start included) that is misclassified, and take the
            sample out of the batch, so that later steps get cheaper. The robust accuracy is that of the full run scored
            over all its iterates, which can be lower than that of its last ones. Not with batch norm in train mode.
        seed: of the random start: an int, a 0-d int64 tensor, or None to draw one from torch's CPU generator.
        sample_ids: int64 ``[B]``: with the same seed, a sample starts from the same point in any batch.
        normalization: (mean, std) if ``x`` is normalized, ``(pixel - mean) / std``; ``eps``, ``step_size`` and
            ``bounds`` stay in pixel units and the result is normalized like ``x``.
        validate: look for values out of range inside the tensors (on CUDA, one read-back per call).

    Returns:
        ``x_adv``: like ``x``, inside the ball and the box.

    Raises:
        TypeError, ValueError: on inputs outside the bounds, integer images, labels of the wrong shape or range, bad
            numbers, or a model whose output has no gradient with respect to ``x``.
    """
    check_images(x)
    if isinstance(steps, bool) or not isinstance(steps, Integral) or steps < 0:
        raise ValueError(f"steps must be an integer >= 0, got {steps!r}")
    if isinstance(restarts, bool) or not isinstance(restarts, Integral) or restarts < 1:
        raise ValueError(f"restarts must be an integer >= 1, got {restarts!r}")
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} needs random_start=True: every run would be the same")
    if keep not in ("last", "best"):
        raise ValueError(f"keep must be 'last' or 'best', got {keep!r}")
    if early_stop and couples_samples(model):
        raise ValueError("early_stop changes the batch, which batch norm in train mode depends on: call model.eval()")
    if loss == "kl" and start is None and not random_start:
        raise ValueError("loss 'kl' has no gradient at x itself: start elsewhere (random_start=True, or start)")
    if step_size is None:
        check_size(eps, "eps", x.shape[0], check_values=validate)
        step_size = 2.5 * eps / max(steps, 1)
    with attacking(model):
        problem = prepare(
            model, x, y, eps, step_size, norm, loss=loss, targets=targets, bounds=bounds, sample_ids=sample_ids,
            normalization=normalization, validate=validate,
        )  # fmt: skip
        if start is not None:
            check_start(start, x, validate)
        seeds = ops.seed_tensor(seed, x.device) if random_start else None
        if len(x) == 0:
            return problem.leave(problem.x.clone())
        if restarts == 1:
            return problem.leave(_ascend(problem, _first_iterate(problem, start, seeds, 0), steps, keep, early_stop))
        result, score = problem.x.clone(), problem.x.new_full((len(x),), -torch.inf)
        for restart in range(restarts):
            first = _first_iterate(problem, start if restart == 0 else None, seeds, restart)
            if early_stop:
                still = (score < torch.inf).nonzero()[:, 0]
                if len(still) == 0:
                    break
                part = problem.take(still)
                x_adv = _ascend(part, first[still], steps, keep, early_stop)
                result[still], score[still] = _better(part, result[still], score[still], x_adv)
            else:
                result, score = _better(problem, result, score, _ascend(problem, first, steps, keep, early_stop))
        return problem.leave(result)


def _first_iterate(problem: Problem, start: Tensor | None, seed: Tensor | None, restart: int) -> Tensor:
    if start is not None:
        return ops.project_(
            problem.enter(start).clone(), problem.x, problem.eps, problem.norm, problem.lower, problem.upper
        )
    if seed is not None:
        return problem.random_start(seed, restart)
    return problem.x.clamp(problem.lower, problem.upper)


def _ascend(problem: Problem, x_adv: Tensor, steps: int, keep: str, early_stop: bool) -> Tensor:
    """One run from ``x_adv``, which it overwrites."""
    result, index = x_adv, None  # where the samples still in the batch belong in the result; None: all of them
    if early_stop:
        result, index = x_adv.clone(), torch.arange(len(x_adv), device=x_adv.device)
    best = (x_adv.clone(), x_adv.new_full((len(x_adv),), -torch.inf)) if keep == "best" else None
    for _ in range(steps):
        logits, loss, grad = problem.objective.gradient(x_adv)
        if index is not None and (won := problem.objective.won(logits)).any():
            result[index[won]] = x_adv[won]
            stay = (~won).nonzero()[:, 0]
            if len(stay) == 0:
                return result
            index, x_adv, loss, grad, problem = index[stay], x_adv[stay], loss[stay], grad[stay], problem.take(stay)
            best = best and (best[0][stay], best[1][stay])
        if best is not None:
            ops.best_(*best, x_adv, loss.to(x_adv.dtype))
        problem.step_(x_adv, grad)
    if best is not None:
        logits, loss = problem.objective.value(x_adv)
        if index is not None:
            loss = torch.where(problem.objective.won(logits), torch.inf, loss)
        ops.best_(*best, x_adv, loss.to(x_adv.dtype))
        x_adv = best[0]
    if index is None:
        return x_adv
    result[index] = x_adv
    return result


def _better(problem: Problem, result: Tensor, score: Tensor, x_adv: Tensor) -> tuple[Tensor, Tensor]:
    """The better of two results per sample: one that is misclassified, else the one of higher loss."""
    logits, loss = problem.objective.value(x_adv)
    ops.best_(result, score, x_adv, torch.where(problem.objective.won(logits), torch.inf, loss.to(score.dtype)))
    return result, score
