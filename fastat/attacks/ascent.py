"""Gradient ascent on a batch: its restarts, what is kept of it, and samples that leave it when they are won."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fastat import graphs
from fastat.attacks.direction import Direction
from fastat.attacks.problem import Labels, Problem, Terms, problem_of, run, take
from fastat.attacks.weakness import Doubts
from fastat.graphs import Graph, Tensors
from fastat.kernels import ops
from fastat.models import Model

COUPLED = "early_stop changes the batch, which batch norm in train mode depends on: call model.eval()"

_STEPS_PER_LOOK = 2
"""Steps of a recording between two looks at which samples are won: each look waits for the GPU."""


Kept = tuple[Tensor, Tensor]
"""An iterate of each sample and its score."""

State = dict[str, Tensor]
"""The iterate ``x_adv``; where something is kept of it, what is ``kept`` and its ``score``; with momentum the
``velocity``."""

Result = tuple[Tensor, Doubts | None]
"""What an attack returns, and what is doubtful about it if that was asked for."""

Work = Callable[[Problem, Tensors], tuple[Tensor, ...]]
"""What may be recorded."""


@dataclass(frozen=True)
class Plan:
    """What an ascent does, and what of it is asked for.

    Attributes:
        keep, restarts, early_stop: as of :func:`fastat.pgd`.
        direction: of a step.
        sizes: of each step, where they differ; None for that of the problem.
        watch: whether what is doubtful about the first gradients is returned too.
    """

    steps: int
    keep: Literal["last", "best"] = "last"
    restarts: int = 1
    early_stop: bool = False
    direction: Direction = field(default_factory=Direction)
    sizes: tuple[float, ...] | None = None
    watch: bool = False

    @property
    def changes(self) -> bool:
        """Whether steps differ in what they do."""
        return self.sizes is not None or self.direction.diversity > 0


@dataclass(frozen=True)
class Ascent:
    """Ascent on a model; the methods take the tensors that :func:`fastat.attacks.inputs.checked` makes."""

    model: Model
    terms: Terms
    labels: Labels
    plan: Plan
    graph: Graph

    def __call__(self, tensors: dict[str, Tensor]) -> Result:
        return self.until_won(tensors) if self.plan.early_stop else self.in_full(tensors)

    def in_full(self, tensors: dict[str, Tensor]) -> Result:
        """Every restart and every step, on all samples."""
        plan = self.plan

        def climb(problem: Problem, tensors: Tensors) -> tuple[Tensor, ...]:
            best: Kept | None = None
            doubts: Doubts | None = None
            for restart in range(plan.restarts):
                state = _first_state(problem, tensors, restart, plan)
                doubts = _both(doubts, self._ascend(problem, state, tensors.get("seed"), restart, 0, plan.steps))
                x_adv = state["kept"] if plan.keep == "best" else state["x_adv"]
                if plan.restarts == 1:
                    break
                best = best or _nothing_yet(problem.x)
                _keep_better(problem, *best, x_adv)
            return problem.leave(x_adv if best is None else best[0]), *(doubts or ())

        x_adv, *doubts = self._run(climb, tensors, ("in full", plan))
        return x_adv, (doubts[0], doubts[1]) if doubts else None

    def until_won(self, tensors: dict[str, Tensor]) -> Result:
        """The same, where a sample that is won leaves the batch."""
        self.labels.settle()
        tensors.setdefault("sample_ids", torch.arange(len(tensors["x"]), device=tensors["x"].device))
        problem = self._problem(tensors)
        if problem.objective.reference is not None:
            tensors["reference"] = problem.objective.reference
        most = _most_rows(len(tensors["x"]))
        if self.plan.restarts == 1:
            x_adv, doubts = self._run_until_won(tensors, 0, most)
            return problem.leave(x_adv), doubts
        result, score = _nothing_yet(problem.x)
        doubts = None
        for restart in range(self.plan.restarts):
            still = (score < torch.inf).nonzero()[:, 0]
            if len(still) == 0:
                break
            part = take(tensors, still)
            best = result[still], score[still]
            x_adv, found = self._run_until_won(part, restart, most)
            _keep_better(self._problem(part), *best, x_adv)
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
        plan = self.plan
        state = _first_state(self._problem(tensors), tensors, restart, plan)
        result, index = state["x_adv"].clone(), torch.arange(len(state["x_adv"]), device=state["x_adv"].device)
        unused = {"start"} if plan.direction.diversity > 0 else {"start", "seed"}
        work = {name: t for name, t in tensors.items() if name not in unused}
        recording = self.graph is not False and graphs.possible(self.model, tensors)
        if recording:
            rows = _padded(index, most)
            work, state = take(work, rows), _rows(state, rows)
        done, doubts = 0, None
        while done < plan.steps:
            count = min(_STEPS_PER_LOOK if recording else 1, plan.steps - done)
            state, found = self._steps_until_won(work, state, restart, done, count)
            done += count
            won = state["score"][: len(index)] == torch.inf
            if found is not None and doubts is None:
                doubts = found[0][: len(index)], found[1]
            elif found is not None and doubts is not None:  # the last step, of those that are left
                doubts[0][index] &= found[0][: len(index)]
            if done == plan.steps or not won.any():
                continue
            result[index[won]] = state["kept"][: len(index)][won]
            stay = (~won).nonzero()[:, 0]
            if len(stay) == 0:
                return result, doubts
            rows = _padded(stay, most) if recording else stay
            if len(rows) < len(state["x_adv"]):
                index = index[stay]
                work, state = take(work, rows), _rows(state, rows)
        x_adv, kept, score = (state[name][: len(index)] for name in ("x_adv", "kept", "score"))
        result[index] = kept if plan.keep == "best" else _where(score == torch.inf, kept, x_adv)
        return result, doubts

    def _steps_until_won(
        self, work: dict[str, Tensor], state: State, restart: int, done: int, count: int
    ) -> tuple[State, Doubts | None]:
        """Some steps. A sample that is won has an infinite score, and the iterate that won it is kept."""

        def climb(problem: Problem, tensors: Tensors) -> tuple[Tensor, ...]:
            state = {name: tensors[name] for name in names}
            doubts = self._ascend(problem, state, tensors.get("seed"), restart, done, count)
            return *state.values(), *(doubts or ())

        names = list(state)
        first, last = self.plan.watch and done == 0, done + count == self.plan.steps
        place = (restart, done) if self.plan.changes else (first, last)
        found = self._run(climb, work | state, ("until won", self.plan, place, count))
        doubts = found[len(names) :]
        return dict(zip(names, found, strict=False)), (doubts[0], doubts[1]) if doubts else None

    def _ascend(
        self, problem: Problem, state: State, seed: Tensor | None, restart: int, done: int, count: int
    ) -> Doubts | None:
        """Some steps after those that are ``done``: moves the state and keeps what is best of its iterates. The one
        after the last step is looked at only where the best is asked for. Returns what is doubtful at the very first
        step, if asked to watch."""
        plan, doubts, x_adv = self.plan, None, state["x_adv"]
        keeping = plan.early_stop or plan.keep == "best"
        for step in range(done, done + count):
            size = problem.step_size if plan.sizes is None else plan.sizes[step]
            draw = restart * plan.steps + step
            output, loss, grad = plan.direction.at(problem, x_adv, state.get("velocity"), size, seed, draw)
            if plan.watch and step in (0, plan.steps - 1):
                doubts = _both(doubts, problem.doubts(output, grad))
            if keeping:
                self._keep(problem, state, output, loss)
            problem.step_(x_adv, grad, size)
        if plan.keep == "best" and done + count == plan.steps:
            self._keep(problem, state)
        return doubts

    def _keep(self, problem: Problem, state: State, output: Any = None, loss: Tensor | None = None) -> None:
        """Keeps the iterates that are better than all before, on the grid if they are to be."""
        plan, x_adv = self.plan, problem.on_grid(state["x_adv"])
        if loss is None or plan.direction.elsewhere or x_adv is not state["x_adv"]:
            output, loss = problem.objective.value(x_adv)
        score = loss.to(x_adv.dtype) if plan.keep == "best" else torch.full_like(state["score"], -torch.inf)
        if plan.early_stop:
            if self.labels.couples_samples():
                raise ValueError(COUPLED)
            score = problem.objective.score(output, score, early_stop=True)
        ops.best_(state["kept"], state["score"], x_adv, score)

    def _problem(self, tensors: Tensors) -> Problem:
        return problem_of(self.model, self.terms, tensors, self.labels)

    def _run(self, work: Work, tensors: Tensors, settings: Hashable) -> tuple[Tensor, ...]:
        return run(work, self.model, self.terms, tensors, self.labels, settings, self.graph)


def _first_state(problem: Problem, tensors: Tensors, restart: int, plan: Plan) -> State:
    x_adv = _first_iterate(problem, tensors, restart)
    state = {"x_adv": x_adv}
    if plan.early_stop or plan.keep == "best":
        state["kept"], state["score"] = _nothing_yet(x_adv)
    if plan.direction.momentum > 0:
        state["velocity"] = torch.zeros_like(x_adv)
    return state


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
    x_adv = problem.on_grid(x_adv)
    output, loss = problem.objective.value(x_adv)
    ops.best_(result, score, x_adv, problem.objective.score(output, loss.to(score.dtype)))


def _rows(state: State, rows: Tensor) -> State:
    return {name: t[rows] for name, t in state.items()}


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
