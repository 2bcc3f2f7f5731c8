"""A finding made as small as it stays one: plain arguments, fewer of them, smaller tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from .case import Case
from .parent import Finding, Worker

_MOST_TRIALS = 400
_MOST_DEATHS = 40
"""Each costs a new process."""


def minimized(finding: Finding, worker: Worker) -> Case:
    """The smallest case found that has the same violation, which is tried in the worker."""
    trials, most = 0, _MOST_DEATHS if finding.kind.startswith(("crash", "hang")) else _MOST_TRIALS

    def shows(case: Case) -> bool:
        nonlocal trials
        trials += 1
        reply = worker.ask({"call": finding.call, "case": case.as_dict()})
        found = [[reply, ""]] if isinstance(reply, str) else reply["violations"]
        return [finding.kind, finding.where] in found

    assert finding.case is not None
    case = Case.from_dict(finding.case)
    if not shows(case):
        return case  # that it does not come again is for the reader to see
    while trials < most:
        smaller = _first(_smaller(case), shows)
        if smaller is None:
            break
        case = smaller
    return case


def _first(cases: Iterator[Case], shows: Callable[[Case], bool]) -> Case | None:
    return next((case for case in cases if shows(case)), None)


def _smaller(case: Case) -> Iterator[Case]:
    for line in reversed(case.lines):
        yield case.without(line.name)
    for line in case.lines:
        if line.source != line.plain:
            yield case.with_source(line.name, line.plain)
    shapes = [line for line in case.lines if line.name == "shape"]
    yield from (case.with_source("shape", repr(shape)) for line in shapes for shape in _shapes(eval(line.source)))
    for line in case.lines:
        if line.source != _SIMPLEST.get(line.name, line.source):
            yield case.with_source(line.name, _SIMPLEST[line.name])
    if case.seed != 0:
        yield replace(case, seed=0)


_SIMPLEST = {"dtype": "torch.float32", "classes": "2", "low": "0.0", "high": "1.0"}


def _shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if len(shape) > 1:
        yield shape[:-1]
    for i, n in enumerate(shape):
        yield from ((*shape[:i], smaller, *shape[i + 1 :]) for smaller in (1, n - 1) if 0 < smaller < n)
