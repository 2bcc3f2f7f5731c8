"""Trains what is missing, one run per core; what is finished is left alone, what was interrupted goes on."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.study.cells import (
    ACCURACY_ATTACK,
    ALPHAS,
    DATASETS,
    LOSS_ATTACK,
    ORDER,
    RS,
    Cell,
    config_of,
    setting_of,
)
from fastat.support.files import write_json
from fastat.training import TrainConfig, check_same_run, record_of


@dataclass(frozen=True)
class Job:
    """One run: a cell with a seed, and where it is kept."""

    cell: Cell
    seed: int
    folder: Path
    config: TrainConfig
    quick: bool

    @property
    def finished(self) -> bool:
        """Whether all its epochs are in its metrics; ValueError if the folder holds a run of another configuration."""
        check_same_run(self.folder, record_of(self.config))
        metrics = self.folder / "metrics.jsonl"
        return metrics.exists() and len(metrics.read_text().splitlines()) == self.config.optimizer.epochs


def jobs_of(cells: Sequence[Cell], root: Path, quick: bool) -> list[Job]:
    """The runs of these cells, seed by seed: an interrupted study has whole comparisons."""
    seeds = max((setting_of(cell.data, quick).seeds for cell in cells), default=0)
    return [
        Job(cell, seed, root / f"{cell.folder}-seed{seed}", config_of(cell, seed, quick), quick)
        for seed in range(seeds)
        for cell in cells
    ]


def check_measurements(root: Path, quick: bool) -> None:
    """Raises ValueError if runs kept here were measured in another way than now; a run's configuration is its own."""
    for name in DATASETS:
        setting = setting_of(name, quick)
        now = {
            "every": setting.measure_every,
            "test images": setting.test_size,
            "attacks": [LOSS_ATTACK, ACCURACY_ATTACK],
            "budgets": [list(ALPHAS), list(RS), ORDER],
        }
        file = root / name / "measurements.json"
        if file.exists() and json.loads(file.read_text()) != now:
            raise ValueError(
                f"{root / name} holds runs that were measured differently: delete it, or use another --runs"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, now)


def run_all(jobs: Sequence[Job], data_root: str | None, processes: int) -> list[str]:
    """Trains the unfinished ones; returns a line about each that could not be.

    Raises:
        KeyboardInterrupt: on Ctrl-C, once every run under way has written its checkpoint.
    """
    waiting = [job for job in jobs if not job.finished]
    problems: list[str] = []
    if not waiting:
        return problems
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the processes below: two runs side by side beat two threads on one
    spawn = multiprocessing.get_context("spawn")
    with _progress(len(jobs), len(jobs) - len(waiting)) as report, ProcessPoolExecutor(processes, spawn) as pool:
        under_way: dict[Future[float], Job] = {}
        while waiting or under_way:
            while waiting and len(under_way) < processes:  # no queue ahead of them that Ctrl-C would have to empty
                job = waiting.pop(0)
                under_way[pool.submit(_train, job, data_root)] = job
            done, _ = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                job = under_way.pop(future)
                try:
                    report(job, future.result())
                except (FileNotFoundError, FloatingPointError, ValueError) as error:
                    problems.append(f"{job.folder.name}: {error}")
                    report(job, 0.0)
                    if isinstance(error, FileNotFoundError):  # the dataset is not there
                        waiting = [other for other in waiting if other.cell.data != job.cell.data]
    return problems


def _train(job: Job, data_root: str | None) -> float:
    """In a process of its own; returns its seconds."""
    from experiments.study.measure import measurement
    from fastat import data
    from fastat.training import train_configured

    if not hasattr(data.load, "cache_info"):  # decoding CIFAR-10 takes longer than a run
        data.load = functools.lru_cache(maxsize=1)(data.load)
    setting, start = setting_of(job.cell.data, job.quick), time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()):  # a line per epoch of every run is too much
        train_configured(
            job.config,
            job.folder,
            data_root=data_root,
            device="cpu",
            measure=measurement(job.config, data_root, setting.test_size),
            measure_every=setting.measure_every,
        )
    _note_seconds(job.folder, time.monotonic() - start)
    return time.monotonic() - start


def _note_seconds(folder: Path, seconds: float) -> None:
    """Adds to what the run has taken so far, measurements included."""
    file = folder / "seconds.json"
    before = json.loads(file.read_text()) if file.exists() else 0.0
    file.write_text(json.dumps(before + seconds))


@contextlib.contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[Job, float], None]]:
    """A function to call when a run is over: a bar on a terminal, else a line per run."""
    if sys.stdout.isatty():
        columns = (
            TextColumn("study"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
        )
        with Progress(*columns) as bar:
            task = bar.add_task("", total=total, completed=done)
            yield lambda job, seconds: bar.update(task, advance=1, description=job.folder.name)
        return
    yield _Lines(total, done)


class _Lines:
    def __init__(self, total: int, done: int) -> None:
        self._total, self._done, self._new, self._start = total, done, 0, time.monotonic()

    def __call__(self, job: Job, seconds: float) -> None:
        self._done, self._new = self._done + 1, self._new + 1
        left = (time.monotonic() - self._start) / self._new * (self._total - self._done) / 60
        name = f"{job.folder.parent.name}/{job.folder.name}"
        print(f"{self._done}/{self._total}  {name}  {seconds:.0f} s, about {left:.0f} min left", flush=True)
