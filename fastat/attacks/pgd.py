"""Projected gradient descent (Madry et al., "Towards deep learning models resistant to adversarial attacks", 2018)."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor

from fastat import graphs
from fastat.attacks.gradient import attacking, couples_samples
from fastat.attacks.inputs import Normalization, check_images, check_start, checked
from fastat.attacks.objective import Goal, LossFunction, WonFunction
from fastat.attacks.problem import Labels, Problem, Terms, problem_of, run, take
from fastat.attacks.weakness import Doubts, check_modes, doubts_of, note, unread
from fastat.graphs import Graph, Tensors, capturing, check_graph
from fastat.kernels import ops
from fastat.kernels.sizes import Box, Size, check_size
from fastat.models import Model
from fastat.support.threat import Norm


def pgd(
    model: Model,
    x: Tensor,
    y: Any,
    eps: Size = 8 / 255,
    step_size: Size | None = None,
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
        step_size: length of a step, as ``eps``; None for ``2.5 * eps / steps``.
        steps: number of gradient steps, >= 0.
        norm: "linf", "l2" or "l1" (sparse steps, see :func:`fastat.l1_step_`).
        loss: a kind of :func:`fastat.attack_loss` ("kl" ascends the divergence from the prediction on ``x``, as in
            TRADES), or a function ``(output, y) -> loss [B]``, whose output is what the model returns and whose y is as
            it was given; a mean of the batch will do where nothing is ranked. "ce" ascends the log-odds against the
            label where samples are independent: at every sample the direction of the cross-entropy's gradient, which
            vanishes where the network is sure. ``training=True``, batch norm that normalizes by the batch, and dense
            outputs keep the cross-entropy itself.
        won: which samples the attack has won, ``(output, y) -> bool [B]``, for ``early_stop`` and ``restarts``; None
            for those whose class is not predicted. With "bce", dense outputs and a loss of one's own ``early_stop``
            needs it, and ``restarts`` without it rank by the loss alone.
        targets: what is to be predicted instead, like ``y``: the loss towards it is descended, and a sample is won when
            its target is predicted (``won`` is called with the target).
        inputs: what the model takes beside ``x`` and is not attacked: ``model(x, *inputs)``, or for a dict
            ``model(x, **inputs)``. Tensors in it have a row for each sample.
        mask: bool, or zeros and ones, that broadcasts against ``x``: where it is False nothing moves, the random start
            included, and the ball is that of the entries that may.
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
            outputs that look like probabilities, samples whose gradient is zero or not finite throughout. The last two
            where ``validate`` allows to look; on CUDA, where that would wait, at the next call with the same model.
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
    check_graph(graph)
    if not training:
        check_modes(model)
    if step_size is None:
        check_size(eps, "eps", x, check_values=validate)
        step_size = 2.5 * eps / max(steps, 1)
    if early_stop and won is None and (callable(loss) or loss == "bce"):
        raise ValueError(
            f"early_stop with loss {'of your own' if callable(loss) else repr(loss)} needs won, a function "
            "(output, y) -> bool [B] that says which samples the attack has won"
        )
    independent = not training and not couples_samples(model)
    mean = keep == "last" and restarts == 1 and not early_stop
    goal = Goal(loss, won, independent, ignore_index, mean)
    watch = validate and not training and not capturing(x)
    with attacking(model, x.device) as bare:
        terms, tensors, labels = checked(
            x, y, eps, step_size, norm, goal=goal, targets=targets, bounds=bounds, sample_ids=sample_ids,
            normalization=normalization, validate=validate, mask=mask, inputs=inputs,
            earlier=unread(model) if validate else None,
        )  # fmt: skip
        if start is not None:
            check_start(start, x, validate)
            tensors["start"] = start.detach()
        if random_start and (start is None or restarts > 1):
            tensors["seed"] = ops.seed_tensor(seed, x.device)
        if len(x) == 0:
            return x.detach().clone()
        attack = _Attack(bare, terms, labels, steps, keep, restarts, early_stop, watch, graph)
        x_adv, doubts = attack.until_won(tensors) if early_stop else attack.in_full(tensors)
    if doubts is not None:
        note(model, doubts)
    return x_adv


_STEPS_PER_LOOK = 2
"""Steps of a recording between two looks at which samples are won: each look waits for the GPU."""


Kept = tuple[Tensor, Tensor]
"""An iterate of each sample and its score."""

Result = tuple[Tensor, Doubts | None]
"""What an attack returns, and what is doubtful about it if that was asked for."""

Work = Callable[[Problem, Tensors], tuple[Tensor, ...]]
"""What may be recorded."""


@dataclass(frozen=True)
class _Attack:
    """PGD on a model; the methods take the tensors that :func:`fastat.attacks.inputs.checked` makes."""

    model: Model
    terms: Terms
    labels: Labels
    steps: int
    keep: Literal["last", "best"]
    restarts: int
    early_stop: bool
    watch: bool
    graph: Graph

    def in_full(self, tensors: dict[str, Tensor]) -> Result:
        """Every restart and every step, on all samples."""

        def climb(problem: Problem, tensors: Tensors) -> tuple[Tensor, ...]:
            best: Kept | None = None
            doubts: Doubts | None = None
            for restart in range(self.restarts):
                x_adv = _first_iterate(problem, tensors, restart)
                kept = _nothing_yet(x_adv) if self.keep == "best" else None
                doubts = _both(doubts, self._ascend(problem, x_adv, kept, self.steps, watch=self.watch))
                x_adv = x_adv if kept is None else kept[0]
                if self.restarts == 1:
                    break
                best = best or _nothing_yet(problem.x)
                _keep_better(problem, *best, x_adv)
            return problem.leave(x_adv if best is None else best[0]), *(doubts or ())

        x_adv, *doubts = self._run(climb, tensors, ("in full", self.steps, self.keep, self.restarts, self.watch))
        return x_adv, (doubts[0], doubts[1]) if doubts else None

    def until_won(self, tensors: dict[str, Tensor]) -> Result:
        """The same, where a sample that is won leaves the batch."""
        self.labels.settle()
        tensors.setdefault("sample_ids", torch.arange(len(tensors["x"]), device=tensors["x"].device))
        problem = problem_of(self.model, self.terms, tensors, self.labels)
        if problem.objective.reference is not None:
            tensors["reference"] = problem.objective.reference
        most = _most_rows(len(tensors["x"]))
        if self.restarts == 1:
            x_adv, doubts = self._run_until_won(tensors, 0, most)
            return problem.leave(x_adv), doubts
        result, score = _nothing_yet(problem.x)
        doubts = None
        for restart in range(self.restarts):
            still = (score < torch.inf).nonzero()[:, 0]
            if len(still) == 0:
                break
            part = take(tensors, still)
            best = result[still], score[still]
            x_adv, found = self._run_until_won(part, restart, most)
            _keep_better(problem_of(self.model, self.terms, part, self.labels), *best, x_adv)
            result[still], score[still] = best
            if doubts is None or found is None:
                doubts = found
            else:
                doubts[0][still] &= found[0]
                doubts[0][score == torch.inf] = False
        return problem.leave(result), doubts

    def _run_until_won(self, tensors: dict[str, Tensor], restart: int, most: int) -> Result:
        """One run: the first iterate of each sample that is won, of others the last or the best. A batch that is
        padded for recordings has ``most`` rows at most."""
        problem = problem_of(self.model, self.terms, tensors, self.labels)
        x_adv = _first_iterate(problem, tensors, restart)
        result, index = x_adv.clone(), torch.arange(len(x_adv), device=x_adv.device)
        work = {name: t for name, t in tensors.items() if name not in ("start", "seed")}
        kept, score = _nothing_yet(x_adv)
        recording = self.graph is not False and graphs.possible(self.model, tensors)
        if recording:
            work, x_adv, kept, score = _rows(_padded(index, most), work, x_adv, kept, score)
        done, doubts = 0, None
        while done < self.steps:
            count = min(_STEPS_PER_LOOK if recording else 1, self.steps - done)
            watch = self.watch and done == 0
            done += count
            x_adv, kept, score, *found = self._steps_until_won(
                work, x_adv, kept, score, count, done == self.steps, watch
            )  # fmt: skip
            if watch:
                doubts = found[0][: len(index)] & (score[: len(index)] < torch.inf), found[1]
            won = score[: len(index)] == torch.inf
            if done == self.steps or not won.any():
                continue
            result[index[won]] = kept[: len(index)][won]
            stay = (~won).nonzero()[:, 0]
            if len(stay) == 0:
                return result, doubts
            rows = _padded(stay, most) if recording else stay
            if len(rows) < len(x_adv):
                index = index[stay]
                work, x_adv, kept, score = _rows(rows, work, x_adv, kept, score)
        n = len(index)
        result[index] = kept[:n] if self.keep == "best" else _where(score[:n] == torch.inf, kept[:n], x_adv[:n])
        return result, doubts

    def _steps_until_won(
        self, work: dict[str, Tensor], x_adv: Tensor, kept: Tensor, score: Tensor, count: int, last: bool, watch: bool
    ) -> tuple[Tensor, ...]:
        """Some steps. A sample that is won has an infinite score, and the iterate that won it is kept."""

        def climb(problem: Problem, tensors: Tensors) -> tuple[Tensor, ...]:
            x_adv, kept = tensors["x_adv"], (tensors["kept"], tensors["score"])
            doubts = self._ascend(problem, x_adv, kept, count, last, watch)
            return x_adv, *kept, *(doubts or ())

        tensors = work | {"x_adv": x_adv, "kept": kept, "score": score}
        return self._run(climb, tensors, ("until won", self.keep, count, last, watch))

    def _ascend(
        self, problem: Problem, x_adv: Tensor, kept: Kept | None, steps: int, last: bool = True, watch: bool = False
    ) -> Doubts | None:
        """Moves ``x_adv`` and keeps what is best of its iterates. The one after the last step is looked at only where
        the best is asked for. If asked to ``watch``, returns what is doubtful at the first step."""
        doubts = None
        for step in range(steps):
            output, loss, grad = problem.gradient(x_adv)
            if watch and step == 0:
                doubts = doubts_of(output if self.terms.goal.of_classes else None, grad)
            if kept is not None:
                self._keep(problem, x_adv, kept, output, loss)
            problem.step_(x_adv, grad)
        if kept is not None and last and self.keep == "best":
            self._keep(problem, x_adv, kept, *problem.objective.value(x_adv))
        return doubts

    def _keep(self, problem: Problem, x_adv: Tensor, kept: Kept, output: Any, loss: Tensor) -> None:
        score = loss.to(x_adv.dtype) if self.keep == "best" else torch.full_like(kept[1], -torch.inf)
        if self.early_stop:
            score = score.clamp(max=torch.finfo(score.dtype).max)  # a loss of one's own may be infinite
            won = problem.objective.won(output, len(x_adv))
            if won is None:
                raise ValueError(
                    "early_stop needs won, a function (output, y) -> bool [B] that says which samples the attack has "
                    f"won, where the model returns several predictions a sample, {list(output.shape)}"
                )
            score = torch.where(won, torch.inf, score)
        ops.best_(*kept, x_adv, score)

    def _run(self, work: Work, tensors: Tensors, settings: Hashable) -> tuple[Tensor, ...]:
        return run(work, self.model, self.terms, tensors, self.labels, settings, self.graph)


def _first_iterate(problem: Problem, tensors: Tensors, restart: int) -> Tensor:
    if restart == 0 and "start" in tensors:
        first = problem.enter(tensors["start"]).clone()
        return ops.project_(first, problem.x, problem.eps, problem.norm, problem.lower, problem.upper)
    if "seed" in tensors:
        return problem.random_start(tensors["seed"], restart)
    return problem.centre()


def _both(these: Doubts | None, those: Doubts | None) -> Doubts | None:
    """What is doubtful in two runs."""
    return (these[0] & those[0], these[1]) if these is not None and those is not None else those


def _nothing_yet(x: Tensor) -> Kept:
    """A result for each sample and its score, which every other is better than."""
    return x.clone(), x.new_full((len(x),), -torch.inf)


def _keep_better(problem: Problem, result: Tensor, score: Tensor, x_adv: Tensor) -> None:
    """Keeps, in place, the better of two results per sample: one that is won, else that of higher loss."""
    output, loss = problem.objective.value(x_adv)
    ops.best_(result, score, x_adv, problem.objective.score(output, loss.to(score.dtype)))


def _rows(
    rows: Tensor, work: dict[str, Tensor], x_adv: Tensor, kept: Tensor, score: Tensor
) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor]:
    return take(work, rows), x_adv[rows], kept[rows], score[rows]


def _padded(rows: Tensor, most: int) -> Tensor:
    """The rows, and the first of them again up to one of few lengths, ``most`` at most."""
    return torch.cat([rows, rows[:1].expand(min(_few_lengths(len(rows)), most) - len(rows))])


def _few_lengths(n: int) -> int:
    """The next of 8, 12, 16, 24, 32, 48, 64, 96, ...: what is left of a batch meets few recordings."""
    length = 8
    while length < n:
        length = length // 2 * 3 if length & (length - 1) == 0 else length // 3 * 4
    return length


def _most_rows(n: int) -> int:
    """For the whole batch, from 64 on, the next multiple of an eighth of the power of two below: 72, 80, ..., 128, 144,
    ... It is where most of the work is: at most an eighth of it is wasted."""
    if n < 64:
        return _few_lengths(n)
    step = 1 << (n.bit_length() - 4)
    return -(-n // step) * step


def _where(chosen: Tensor, this: Tensor, that: Tensor) -> Tensor:
    """Sample by sample."""
    return torch.where(chosen.view(-1, *[1] * (this.dim() - 1)), this, that)
