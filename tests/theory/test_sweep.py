"""Cells of an experiment: order, what is kept, what is run again, processes, and what experiments return."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import joblib
import pytest
import torch
from damage import contents
from matplotlib.figure import Figure

from fastat.theory.cost import passes_per_image, training_cost
from fastat.theory.result import Finding, Picture, Result
from fastat.theory.sweep import sweep
from fastat.training import default_config


@dataclass(frozen=True)
class Cell:
    value: int
    more: tuple[float, ...] = (0.1, 0.2)


def square(cell: Cell) -> dict[str, float]:
    return {"square": cell.value**2, "sum": sum(cell.more)}


def counted(cell: Cell, log: Path) -> dict[str, float]:
    with log.open("a") as stream:
        stream.write(f"{cell.value}\n")
    if cell.value == 3 and log.with_name("broken").exists():
        raise KeyboardInterrupt
    return {"value": cell.value}


def one_thread(cell: Cell) -> dict[str, int]:
    return {"threads": torch.get_num_threads()}


def test_results_come_in_the_order_of_the_cells() -> None:
    assert [found["square"] for found in sweep(square, [Cell(3), Cell(1), Cell(2)])] == [9, 1, 4]


def test_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    cells = [Cell(value) for value in range(5)]
    with joblib.parallel_config(n_jobs=2):
        assert sweep(square, cells, folder=tmp_path) == sweep(square, cells)


def test_a_cell_has_one_thread_and_the_caller_keeps_his() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    assert sweep(one_thread, [Cell(0)]) == [{"threads": 1}]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_a_stopped_sweep_goes_on_with_the_cells_that_are_missing(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "cells"
    run = functools.partial(counted, log=log)
    (tmp_path / "broken").touch()
    with pytest.raises(KeyboardInterrupt):
        sweep(run, [Cell(value) for value in (1, 2, 3, 4)], folder=folder)
    (tmp_path / "broken").unlink()
    found = sweep(run, [Cell(value) for value in (1, 2, 3, 4, 5)], folder=folder)
    assert [row["value"] for row in found] == [1, 2, 3, 4, 5]
    assert log.read_text().split() == ["1", "2", "3", "3", "4", "5"]


def test_a_cell_stands_for_its_function_and_all_its_fields(tmp_path: Path) -> None:
    sweep(square, [Cell(2)], folder=tmp_path)
    assert sweep(square, [Cell(2, (1.0,))], folder=tmp_path) == [{"square": 4, "sum": 1.0}]
    assert sweep(one_thread, [Cell(2)], folder=tmp_path) == [{"threads": 1}]
    assert len(list(tmp_path.glob("*.json"))) == 3


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"cell": {"value": 9, "more": []}, "result": {}}'])
def test_a_file_that_is_no_finished_cell_is_named(tmp_path: Path, content: str) -> None:
    sweep(square, [Cell(2)], folder=tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(content)
    with pytest.raises(ValueError, match=file.name):
        sweep(square, [Cell(2)], folder=tmp_path)


def test_what_is_done_stays_when_a_cell_fails(tmp_path: Path) -> None:
    log, folder = tmp_path / "log", tmp_path / "cells"
    (tmp_path / "broken").touch()
    with joblib.parallel_config("sequential"), pytest.raises(KeyboardInterrupt):
        sweep(functools.partial(counted, log=log), [Cell(1), Cell(3)], folder=str(folder))
    assert len(list(folder.glob("*.json"))) == 1


def test_threads_share_the_process_and_leave_it_its_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with joblib.parallel_config("threading", n_jobs=3):
        assert sweep(one_thread, [Cell(value) for value in range(6)]) == [{"threads": 1}] * 6
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_the_same_cell_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"differ.*value=2"):
        sweep(square, [Cell(1), Cell(2), Cell(2)])


def test_dask_spreads_a_sweep(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="dask is not installed")
    cells = [Cell(value) for value in range(4)]
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster),
        joblib.parallel_config("dask"),
    ):
        assert sweep(square, cells, folder=tmp_path) == [square(cell) for cell in cells]
    assert len(list(tmp_path.glob("*.json"))) == 4


@dataclass(frozen=True)
class Some(Result):
    experiment: ClassVar[str] = "some"
    title: ClassVar[str] = "Some experiment"
    values: tuple[float, ...] = ()

    def findings(self) -> list[Finding]:
        return [Finding("a | b", "partly", f"{len(self.values)} values")]

    def plot(self, folder: Path) -> list[Picture]:
        Figure().savefig(folder / "empty.png")
        return [Picture("empty.png", "Nothing.")]


def test_a_result_saves_its_numbers_its_findings_and_its_figures(tmp_path: Path) -> None:
    Some(Cell(1), (1.0, 2.0)).save(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "results.json").read_text())
    assert kept["settings"] == {"value": 1, "more": [0.1, 0.2]} and kept["values"] == [1.0, 2.0]
    assert kept["findings"] == [{"claim": "a | b", "verdict": "partly", "evidence": "2 values"}]
    assert (tmp_path / "out" / "figures" / kept["figures"][0]["file"]).exists()
    statement = (tmp_path / "out" / "statement.md").read_text()
    assert r"| a \| b | partly | 2 values |" in statement and "![Nothing.](figures/empty.png)" in statement


def test_passes_are_those_of_attack_loss_and_extras() -> None:
    counts = {"standard": 1, "pgd-at": 11, "fgsm-at": 2, "free": 1, "gradalign": 5, "trades": 12, "mart": 12}
    assert {name: passes_per_image(default_config("digits", name)) for name in counts} == counts


def test_the_cost_of_trainings_counts_them() -> None:
    configs = [default_config("digits", epochs=3), default_config("digits", "standard", epochs=2, train_size=100)]
    told = training_cost(configs, 1000, (1, 8, 8), 10)
    assert told.startswith("2 trainings of 5 epochs together, 3.32e+04 passes")


def test_a_cell_that_has_changed_is_not_taken(tmp_path: Path) -> None:
    """By its digest: one digit of a number, or any other content. One that was kept before there were digests is."""
    cell = Cell(3)
    expected = sweep(square, [cell], folder=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    places_of_digits = [place for place, byte in enumerate(whole) if byte in b"0123456789"]
    for place in places_of_digits:
        changed = bytearray(whole)
        changed[place] ^= 1
        if json.loads(changed) == json.loads(whole):  # the last digit of a number may be one more than it needs
            continue
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=rf"{file.name} cannot be read as a finished cell: .*; delete it to run"):
            sweep(square, [cell], folder=tmp_path)
    for content in contents(whole).values():
        file.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{file.name} cannot be read as a finished cell: .*; delete it to run"):
            sweep(square, [cell], folder=tmp_path)
    kept = json.loads(whole)
    del kept["digest"]
    file.write_text(json.dumps(kept))
    assert sweep(square, [cell], folder=tmp_path) == expected
