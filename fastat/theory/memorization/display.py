"""What an estimation shows while it runs: a bar on a terminal, a line per saved group of networks elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastat.theory.memorization.scores import Outcomes


class Display(Protocol):
    """Where the estimation reports to."""

    def epochs(self, done: int) -> None:
        """``done`` epochs are over, summed over the networks."""

    def networks(self, done: int, rate: float, last: Outcomes) -> None:
        """``done`` networks are trained, the last group of them at ``rate`` a second and with these outcomes."""


@contextmanager
def estimation_display(n_models: int, epochs: int, done: int) -> Iterator[Display]:
    """A progress bar if the standard output is a terminal, else one line per group of networks."""
    if not sys.stdout.isatty():
        yield _Lines(n_models)
        return
    columns = (
        TextColumn("networks {task.fields[trained]}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left  {task.fields[numbers]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(
            "", total=n_models * epochs, completed=done * epochs, trained=f"{done}/{n_models}", numbers=""
        )
        yield _Bar(progress, task, n_models)


class _Lines:
    def __init__(self, n_models: int) -> None:
        self._n_models = n_models

    def epochs(self, done: int) -> None:
        pass

    def networks(self, done: int, rate: float, last: Outcomes) -> None:
        width = len(str(self._n_models))
        print(f"networks {done:{width}}/{self._n_models}  {_numbers(rate, last)}", flush=True)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, n_models: int) -> None:
        self._progress = progress
        self._task = task
        self._n_models = n_models

    def epochs(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def networks(self, done: int, rate: float, last: Outcomes) -> None:
        self._progress.update(self._task, trained=f"{done}/{self._n_models}", numbers=_numbers(rate, last))


def _numbers(rate: float, last: Outcomes) -> str:
    own = last.train_correct[last.member].mean()
    return f"own subset {own:.1%}  test {last.test_correct.mean():.1%}  {rate:.3g} networks/s"
