"""Many independent cells of an experiment: in parallel through joblib, kept as they finish, with a progress bar."""

from __future__ import annotations

import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import joblib
import torch
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from fastat.support.files import write_json
from fastat.support.files.foreign_json import content_of, read_object
from fastat.theory.digest import cell_fields, json_digest
from fastat.training import interrupts_deferred, locked

_SECONDS_BETWEEN_LINES = 10.0
_DIGITS = 32


def sweep(
    function: Callable[[Any], dict[str, Any]],
    cells: Sequence[Any],
    *,
    folder: str | Path | None = None,
    label: str = "cells",
) -> list[dict[str, Any]]:
    """``function`` of every cell, in the order of the cells.

    Cells run through :class:`joblib.Parallel`: one after another, or as ``joblib.parallel_config`` says, for example
    ``parallel_config(n_jobs=8)`` or ``parallel_config("dask")``. Each has one thread of PyTorch, so that its numbers do
    not depend on how many run beside it.

    With a folder every finished cell is kept in a file of its own, and the same call continues a stopped one: only
    cells that are not there are run. A file's name is a digest of the function's name and the cell's fields; what
    ``functools.partial`` adds to a function (a device, a place of data) must not change the result, and results of
    older code are taken as they are: delete the folder when the code has changed. With a backend of joblib that returns
    all results at once ("multiprocessing") they are kept at the end.

    Args:
        function: a function of one cell, of a module, or a ``functools.partial`` of one: it is sent to other processes.
            Returns a dict of JSON values.
        cells: frozen dataclasses of JSON values, all different.
        folder: where finished cells are kept; made if missing.
        label: what the progress bar calls them.

    Raises:
        ValueError: two cells are the same, a file in the folder is not one that this function wrote, or another process
            has a sweep in the folder.
        KeyboardInterrupt: on Ctrl-C; the finished cells stay in the folder.
    """
    keys = [_key(function, cell) for cell in cells]
    for cell, key in zip(cells, keys, strict=True):
        if keys.count(key) > 1:
            raise ValueError(f"cells must all differ, got twice: {cell}")
    place = None if folder is None else Path(folder)
    files = [None if place is None else place / f"{key}.json" for key in keys]
    with nullcontext() if place is None else locked(place):
        return _swept(function, cells, files, label)


def _swept(
    function: Callable[[Any], dict[str, Any]], cells: Sequence[Any], files: Sequence[Path | None], label: str
) -> list[dict[str, Any]]:
    found = {i: _read(file, cells[i]) for i, file in enumerate(files) if file is not None and file.exists()}
    todo = [i for i in range(len(cells)) if i not in found]
    threads = torch.get_num_threads()
    try:
        with _progress(label, len(cells), len(found)) as advance:
            for index, result in _results(function, cells, todo):
                file = files[index]
                if file is not None:
                    with interrupts_deferred():
                        _write(file, cells[index], result)
                found[index] = result
                advance()
    finally:
        torch.set_num_threads(threads)
    return [found[index] for index in range(len(cells))]


def _results(function: Callable[[Any], Any], cells: Sequence[Any], todo: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """Index and result of each cell to do, as they finish; all at the end where a backend of joblib cannot say."""
    tasks = (joblib.delayed(_run_one)(function, index, cells[index]) for index in todo)
    backend = joblib.parallel.get_active_backend()[0]
    if joblib.effective_n_jobs() == 1:
        yield from (task[0](*task[1]) for task in tasks)
    elif backend.supports_return_generator:
        with warnings.catch_warnings():  # a worker that has grown is replaced by joblib: nothing is lost
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            yield from joblib.Parallel(return_as="generator_unordered")(tasks)
    else:
        yield from joblib.Parallel()(tasks)


def _run_one(function: Callable[[Any], dict[str, Any]], index: int, cell: Any) -> tuple[int, dict[str, Any]]:
    torch.set_num_threads(1)  # of this process or of a worker; the sweep gives its own process its threads back
    return index, json.loads(json.dumps(function(cell)))  # as it will be read back when continued


def _key(function: Callable[[Any], Any], cell: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return json_digest([function.__module__, function.__qualname__, cell_fields(cell)], 20)


def _read(file: Path, cell: Any) -> dict[str, Any]:
    try:
        kept = read_object(content_of(file), {"cell": {}, "result": {}}, "it")
        if "digest" in kept and kept["digest"] != json_digest([kept["cell"], kept["result"]], _DIGITS):
            raise ValueError("it does not have the content that was written, by its digest")
        if kept["cell"] != json.loads(json.dumps(cell_fields(cell))):
            raise ValueError("it holds another cell")
    except ValueError as error:
        raise ValueError(
            f"{file} cannot be read as a finished cell: {error}; delete it to run the cell again"
        ) from error
    result: dict[str, Any] = kept["result"]
    return result


def _write(file: Path, cell: Any, result: dict[str, Any]) -> None:
    fields = json.loads(json.dumps(cell_fields(cell)))
    digest = json_digest([fields, result], _DIGITS)  # against damage: a number that is wrong looks like any other
    write_json(file, {"cell": fields, "result": result, "digest": digest})


@contextmanager
def _progress(label: str, total: int, done: int) -> Iterator[Callable[[], None]]:
    """What to call after each cell: moves a bar on a terminal, prints a line now and then elsewhere."""
    if sys.stdout.isatty():
        columns = (
            TextColumn(f"{label} {{task.completed}}/{total}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns) as progress:
            task = progress.add_task("", total=total, completed=done)
            yield lambda: progress.advance(task)
        return
    began = last = time.monotonic()

    def line() -> None:
        nonlocal done, last
        done += 1
        now = time.monotonic()
        if done == total or now - last >= _SECONDS_BETWEEN_LINES:
            print(f"{label} {done}/{total}  {now - began:.0f} s", flush=True)
            last = now

    yield line
