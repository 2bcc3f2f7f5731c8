"""Projected gradient descent (Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018)."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import Tensor

from fastat.attacks.ascent import COUPLED, Ascent, Plan
from fastat.attacks.direction import Direction
from fastat.attacks.gradient import Modules, attacking
from fastat.attacks.inputs import Normalization, check_images, check_start, checked
from fastat.attacks.objective import Goal, LossFunction, WonFunction
from fastat.attacks.weakness import check_modes, report
from fastat.graphs import Graph, capturing, check_graph
from fastat.kernels import ops
from fastat.kernels.arguments import check_integer, check_number
from fastat.kernels.sizes import Box, Size, check_size
from fastat.models import Model
from fastat.support.threat import Norm, as_float


def pgd(
    model: Model,
    x: Tensor,
    y: Any,
    eps: Size = 8 / 255,
    step_size: Size | Callable[[int], float] | None = None,
    steps: int = 10,
    norm: Norm = "linf",
    *,
    loss: ops.LossKind | LossFunction = "ce",
    won: WonFunction | None = None,
    targets: Any = None,
    inputs: tuple[Any, ...] | Mapping[str, Any] = (),
    mask: Tensor | None = None,
    ignore_index: int = -100,
    start: Tensor | None = None,
    random_start: bool = True,
    restarts: int = 1,
    bounds: Box = (0.0, 1.0),
    keep: Literal["last", "best"] = "last",
    early_stop: bool = False,
    momentum: float = 0.0,
    nesterov: bool = False,
    samples: int = 1,
    diversity: float = 0.0,
    quantize: int | None = None,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    normalization: Normalization | None = None,
    training: bool = False,
    graph: Graph = False,
    validate: bool = True,
) -> Tensor:
    """Adversarial examples by projected gradient ascent on the loss, in an lp-ball around ``x``.

    With the same start and loss gradients, float32 linf iterates have the bits of the textbook loop
    ``x_adv = (x + (x_adv + step_size * grad.sign() - x).clamp(-eps, eps)).clamp(*bounds)``. The model may be in any
    mode, compiled, wrapped in DistributedDataParallel, or a plain function; it is left as found (mode,
    ``requires_grad``, ``.grad``; buffers, if it is in eval mode). Works under autocast, ``no_grad`` and
    ``inference_mode``.

    Args:
        model: maps inputs ``[B, ...]`` to logits ``[B, C]``, or to a mapping or an object that has them as ``logits``.
            A single logit, ``[B]`` or ``[B, 1]``, is that of class 1 against class 0.
        x: inputs ``[B, ...]`` within ``bounds``, any float dtype; the attack's state is float32 or float64.
        y: integer labels ``[B]`` in [0, C); of dense outputs ``[B, C, ...]`` labels ``[B, ...]``; for "bce" ``[B, C]``
            in [0, 1]. With a loss of one's own whatever that takes: a tensor, or a tuple, list or dict of tensors, with
            a row for each sample.
        eps: radius >= 0, in the units of the bounds: a number; one per sample, ``[B]``; for linf also a tensor that
            broadcasts against ``x``, one number per channel ``[C, 1, 1]`` say. ``[B]`` is refused where the last
            dimension of ``x`` is B too: ``[B, 1]`` or ``[1, B]`` says which is meant.
        step_size: length of a step, as ``eps``; None for ``2.5 * eps / steps``; or a function that gives a number for
            each step 0, 1, ..., ``steps - 1``.
        steps: number of gradient steps, >= 0.
        norm: "linf", "l2" or "l1" (sparse steps, see :func:`fastat.l1_step_`).
        loss: "ce", "margin", "dlr", "dlr_targeted", "log_odds", "bce" or "kl", see :func:`fastat.attack_loss` ("kl"
            ascends the divergence from the prediction on ``x``, as in TRADES; y may be None), or a function
            ``(output, y) -> loss [B]``, whose output is what the model returns and whose y is as it was given; a mean
            of the batch will do where nothing is ranked. "ce" ascends the log-odds against the label where samples are
            independent: at every sample the direction of the cross-entropy's gradient, which vanishes where the network
            is sure. ``training=True``, batch norm that normalizes by the batch, ``samples`` > 1 and dense outputs keep
            the cross-entropy itself.
        won: which samples the attack has won, ``(output, y) -> bool [B]``, for ``early_stop`` and ``restarts``, the
            output as the model returns it; None for those whose class is not predicted. With "bce", dense outputs and a
            loss of one's own ``early_stop`` needs it, and ``restarts`` without it rank by the loss alone.
        targets: what is to be predicted instead, like ``y``: the loss towards it is descended, and a sample is won when
            its target is predicted (``won`` is called with the target).
        inputs: what the model takes beside ``x`` and is not attacked: ``model(x, *inputs)``, or for a dict
            ``model(x, **inputs)``. Tensors in it have a row for each sample.
        mask: bool, or a float tensor of zeros and ones, that broadcasts against ``x``: where it is False nothing moves,
            in the random start neither, and the ball is that of the entries that may.
        ignore_index: the label of positions that do not count, in dense outputs.
        start: first iterate ``[B, ...]`` (projected first); later restarts start at random.
        random_start: start uniformly in the ball, else at ``x``.
        restarts: independent runs; per sample a result that is won goes before others, else the one of highest loss.
        bounds: the box (lower, upper) of valid inputs, each end a number, a tensor as for ``eps``, or None; None for no
            box.
        keep: "last" returns the last iterate, "best" the one with the highest loss, the start included.
        early_stop: return, per sample, the first iterate (the start included) that is misclassified, or won, and take
            the sample out of the batch, so that later steps get cheaper. The robust accuracy is that of the full run
            scored over all its iterates, which can be lower than that of its last ones; up to rounding, which depends
            on the batch. Not with batch norm in train mode.
        momentum: what is kept of the directions before (MI-FGSM; Dong et al. 2018): the step goes along
            g <- momentum g + grad / mean |grad|. 0 for none; the authors take 1.
        nesterov: take the gradient where momentum leads, at x_adv + step_size momentum g (NI-FGSM; Lin et al. 2020),
            for linf.
        samples: gradients averaged for each step, for a model that is random (EoT; Athalye et al. 2018); "ce" is then
            the cross-entropy itself.
        diversity: probability that an image ``[B, C, H, W]`` is made smaller and padded at random before the model sees
            it, for examples that transfer (DI-FGSM; Xie et al. 2019, who take 0.5).
        quantize: 255 for results on the grid of 8-bit images between the bounds, which ``x`` must be on, inside the
            ball: saving them as PNG changes nothing. What is won or best is then decided on the grid, by a pass of its
            own. float32 and float64 only.
        seed: of the random start: an int, a 0-d int64 tensor, or None to draw one from torch's CPU generator.
        sample_ids: int64 ``[B]``: with the same seed, a sample starts from the same point in any batch.
        normalization: (mean, std) if ``x`` is normalized, ``(pixel - mean) / std``; ``eps``, ``step_size`` and
            ``bounds`` stay in pixel units and the result is normalized like ``x``.
        training: the attack is a part of training: the textbook cross-entropy, whose gradients have the lengths that
            others of the batch are weighed against, and no warning about train mode or vanishing gradients.
        graph: on CUDA, record the attack as a graph and replay it: True, or "auto" for what can be recorded and comes
            twice (:mod:`fastat.graphs`). The result is the same, with ``early_stop`` up to rounding. The first call of
            a kind costs several; any other thread that waits for the GPU meanwhile gets an error. A recording
            keeps copies of its inputs and results and the memory of one attack; a model has 32 at most, which
            ``fastat.graphs.forget(model)`` frees. The model's own weights, attributes, modes and hooks are watched,
            but no globals and no attributes of its class. A function as ``loss`` must depend on its arguments alone,
            and be the same object at every call.
        validate: look for values out of range inside the tensors (on CUDA one read-back per call, with ``start`` two).

    Returns:
        ``x_adv``: like ``x``, inside the ball and the box.

    Raises:
        TypeError, ValueError: on inputs outside the bounds, integer images, labels of the wrong shape or range, bad
            numbers, or a model whose output has no gradient with respect to ``x``.
        CaptureError: with ``graph=True``, if the attack cannot be recorded; the message says why.

    Warns:
        WeakAttackWarning: once for a line of code: eps larger than the box, batch norm or dropout in train mode,
            outputs that look like probabilities, samples whose gradient is zero or NaN throughout. The last two where
            ``validate`` allows to look; on CUDA, where that would wait, with the next attack that reads back, or at the
            end of the process, for the line that they were found at.
    """
    check_images(x)
    check_integer(steps, "steps", 0)
    check_integer(restarts, "restarts", 1)
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts={restarts} needs random_start=True: every run would be the same")
    if keep not in ("last", "best"):
        raise ValueError(f"keep must be 'last' or 'best', got {keep!r}")
    modules = Modules(model)
    if early_stop and modules.couple_samples():
        raise ValueError(COUPLED)
    if loss == "kl" and start is None and not random_start:
        raise ValueError("loss 'kl' has no gradient at x itself: start elsewhere (random_start=True, or start)")
    check_graph(graph)
    sizes = None
    if step_size is None:
        check_size(eps, "eps", x, check_values=validate)
        step_size = 2.5 * eps / max(steps, 1) if isinstance(eps, Tensor) or math.isfinite(as_float(eps)) else 0.0
    elif callable(step_size):
        sizes = tuple(check_number(step_size(step), f"step_size({step})") for step in range(steps))
        step_size = 0.0
    if early_stop and won is None and (callable(loss) or loss == "bce"):
        raise ValueError(
            f"early_stop with loss {'of your own' if callable(loss) else repr(loss)} needs won, a function "
            "(output, y) -> bool [B] that says which samples the attack has won"
        )
    direction = _direction(momentum, nesterov, samples, diversity, norm, x)
    ranked = keep == "best" or restarts > 1 or early_stop
    independent = not training and samples == 1 and not modules.couple_samples()
    goal = Goal(loss, won, independent, ignore_index, mean_will_do=not ranked)
    watch = validate and not training and not capturing(x)
    plan = Plan(steps, keep, restarts, early_stop, direction, sizes, watch)
    with attacking(model, x.device) as bare, modules.noticed():
        terms, tensors, labels = checked(
            x, y, eps, step_size, norm, goal=goal, targets=targets, bounds=bounds, sample_ids=sample_ids,
            normalization=normalization, validate=validate, mask=mask, inputs=inputs, quantize=quantize,
        )  # fmt: skip
        labels.couples_samples = modules.couple_samples
        if start is not None:
            check_start(start, x, validate)
            tensors["start"] = start.detach()
        if (random_start and (start is None or restarts > 1)) or diversity > 0:
            tensors["seed"] = ops.seed_tensor(seed, x.device)
        if len(x) == 0:
            return x.detach().clone()
        x_adv, doubts = Ascent(bare, terms, labels, plan, graph)(tensors)
    if not training:
        check_modes(modules.running, averaged=samples > 1)
    if doubts is not None:
        report(doubts)
    return x_adv


def _direction(momentum: float, nesterov: bool, samples: int, diversity: float, norm: Norm, x: Tensor) -> Direction:
    momentum, diversity = check_number(momentum, "momentum"), check_number(diversity, "diversity")
    if diversity > 1:
        raise ValueError(f"diversity must be a probability, in [0, 1], got {diversity}")
    check_integer(samples, "samples", 1)
    if nesterov and (momentum == 0 or norm != "linf"):
        raise ValueError(f"nesterov needs momentum > 0 and norm 'linf', got {momentum} and {norm!r}")
    if diversity > 0 and x.dim() != 4:
        raise ValueError(f"diversity needs images [B, C, H, W], got {list(x.shape)}")
    return Direction(momentum, bool(nesterov), int(samples), diversity)
