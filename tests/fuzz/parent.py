"""Calls in processes of their own, which may crash or hang."""

from __future__ import annotations

import importlib
import json
import select
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .calls import drawn

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Limits:
    """What a call may take; both generous, since a hang has no end.

    Attributes:
        cpu: seconds of the worker's own computing.
        wall: seconds until its answer, for one that waits without computing.
    """

    cpu: float = 120.0
    wall: float = 1200.0


@dataclass(frozen=True)
class Finding:
    """A broken promise: of which function of the table, of what kind, where, and a case that shows it."""

    call: int
    kind: str
    where: str
    case: dict[str, Any] | None
    number: int


@dataclass
class Report:
    """Outcomes by number of the function in the table, and findings: the first of each kind, and how many."""

    outcomes: Counter[tuple[int, str]] = field(default_factory=Counter)
    first: dict[tuple[int, str, str], Finding] = field(default_factory=dict)
    seen: Counter[tuple[int, str, str]] = field(default_factory=Counter)

    def add(self, call: int, outcome: str, found: list[Finding]) -> None:
        self.outcomes[call, outcome] += 1
        for one in found:
            key = (one.call, one.kind, one.where)
            self.seen[key] += 1
            if key not in self.first or one.number < self.first[key].number:
                self.first[key] = one


class Worker:
    """A process that answers jobs; a new one in its place where it died."""

    def __init__(self, table: str, limits: Limits) -> None:
        self.table, self.limits = table, limits
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def ask(self, job: Any) -> dict[str, Any] | str:
        """The answer, or how the process died of the job: "crash: SIGSEGV", "hang"."""
        process = self._running()
        assert process.stdin is not None and process.stdout is not None
        try:
            print(json.dumps(job), file=process.stdin, flush=True)
            if not select.select([process.stdout], [], [], self.limits.wall)[0]:
                self._end()
                return "hang"
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        status = process.wait()
        self._end()
        if status == -signal.SIGPROF:
            return "hang"
        return f"crash: {signal.Signals(-status).name if status < 0 else f'exit status {status}'}"

    def _running(self) -> subprocess.Popen[str]:
        if self.process is None:
            command = [sys.executable, "-m", "tests.fuzz.worker", self.table, str(self.limits.cpu)]
            self.process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            assert self.process.stdout is not None
            if self.process.stdout.readline() != "ready\n":
                raise RuntimeError(f"the worker does not start: {' '.join(command)}")
        return self.process

    def _end(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def fuzzed(table: str, calls: int, seed: int, workers: int = 1, limits: Limits = Limits()) -> Report:
    """Makes the calls with numbers from 0 on, of the functions in ``table``, a module with ``CALLS``."""
    report = Report()

    def work(first: int) -> None:
        with Worker(table, limits) as worker:
            for number in range(first, calls, workers):
                _note(report, table, seed, number, worker.ask([seed, number]))

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    return report


def _note(report: Report, table: str, seed: int, number: int, reply: dict[str, Any] | str) -> None:
    if isinstance(reply, dict):
        call = reply["call"]
        found = [Finding(call, kind, where, reply["case"], number) for kind, where in reply["violations"]]
        report.add(call, reply["outcome"], found)
        return
    calls = importlib.import_module(table).CALLS
    call, case = drawn(calls, seed, number)
    index = calls.index(call)
    report.add(index, "died", [Finding(index, reply, "", case.as_dict(), number)])
