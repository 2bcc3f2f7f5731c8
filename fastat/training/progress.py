"""What a training run shows while it runs: a bar on a terminal, a line per epoch elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import RenderableType
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text


class Display(Protocol):
    """Where the training loop reports to."""

    def step(self, done: int, epoch: int, loss: float, accuracy: float, rate: float) -> None:
        """``done`` steps of the run are over; loss and adversarial accuracy of the epoch so far, images per second."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is over; row is its line of metrics.jsonl."""

    def finding(self, found: Mapping[str, Any]) -> None:
        """A monitor saw something; found is what metrics.jsonl will have of it."""

    def say(self, text: str) -> None:
        """Something else is worth a line."""


@contextmanager
def training_display(epochs: int, total_steps: int, done: int, *, quiet: bool = False) -> Iterator[Display]:
    """A progress bar if the standard output is a terminal, else one line per epoch; nothing if quiet."""
    if quiet:
        yield _Nothing()
        return
    if not sys.stdout.isatty():
        yield _Lines(epochs)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("left  {task.fields[rate]}"),
    )
    with _TwoLines(*columns) as progress:
        task = progress.add_task("starting", total=total_steps, completed=done, rate="", numbers="")
        yield _Bar(progress, task, epochs)


class _TwoLines(Progress):
    """The bar, and the numbers below it: together they are too wide for a terminal of 80 columns."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield from (Text(task.fields["numbers"]) for task in self.tasks)


class _Nothing:
    def step(self, done: int, epoch: int, loss: float, accuracy: float, rate: float) -> None:
        pass

    def epoch(self, row: Mapping[str, Any]) -> None:
        pass

    def finding(self, found: Mapping[str, Any]) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class _Lines:
    def __init__(self, epochs: int) -> None:
        self._epochs = epochs

    def step(self, done: int, epoch: int, loss: float, accuracy: float, rate: float) -> None:
        pass

    def epoch(self, row: Mapping[str, Any]) -> None:
        width = len(str(self._epochs))
        train = row["train"]
        parts = [
            f"epoch {row['epoch']:{width}}/{self._epochs}",
            f"loss {train['loss']:.3f}",
            f"train adversarial {train['adversarial']:.1%}",
            *_validation(row),
            f"{row['images_per_second']:,.0f} images/s",
        ]
        self.say("  ".join(parts))
        if row["stopped"]:
            self.say(f"stopped early: {row['stopped']}")

    def finding(self, found: Mapping[str, Any]) -> None:
        self.say(f"{found['monitor']}: {found['text']}")

    def say(self, text: str) -> None:
        print(text, flush=True)


class _Bar:
    def __init__(self, progress: Progress, task: TaskID, epochs: int) -> None:
        self._progress = progress
        self._task = task
        self._epochs = epochs
        self._validation = ""

    def step(self, done: int, epoch: int, loss: float, accuracy: float, rate: float) -> None:
        self._progress.update(
            self._task,
            completed=done,
            description=f"epoch {epoch}/{self._epochs}",
            rate=f"{rate:,.0f} images/s",
            numbers=f"loss {loss:.3f}  train adversarial {accuracy:.1%}{self._validation}",
        )

    def epoch(self, row: Mapping[str, Any]) -> None:
        self._validation = "  ".join(["", *_validation(row)])
        if row["stopped"]:
            self.say(f"stopped early: {row['stopped']}")

    def finding(self, found: Mapping[str, Any]) -> None:
        self.say(f"{found['monitor']}: {found['text']}")

    def say(self, text: str) -> None:
        self._progress.print(text)


def _validation(row: Mapping[str, Any]) -> list[str]:
    return ["val " + "  ".join(f"{name} {value:.1%}" for name, value in row["val"].items())] if row["val"] else []
