"""One HTML page, complete in itself, that shows training runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from fastat import models
from fastat.report import html, page_figures
from fastat.report.results import NORM_TITLES, attack_title, format_eps
from fastat.report.run_figures import is_whole_png
from fastat.support.files.foreign_json import read_inside, read_object
from fastat.training import CHECKPOINT, CONFIG, ENVIRONMENT, METRICS, Record, Which, history_in, record_in

_RESULTS = {
    "dataset": str,
    "norm": {*NORM_TITLES},
    "eps": float,
    "test_images": int,
    "epoch": int,
    "which": {*get_args(Which)},
    "accuracy": {...: {"accuracy": float, "low": float, "high": float}},
    "curve": {"attack": str, "eps": [float], "accuracy": [float]},
    "classes": [str],
    "by_class": {"accuracy": {...: [(float,)]}},
}
"""What the page shows of results.json."""


@dataclass(frozen=True)
class _Shown:
    """A run folder, as far as it is there, and what the page says of it."""

    name: str
    record: Record
    history: list[dict[str, Any]]
    results: dict[str, Any] | None
    environment: dict[str, str]
    examples: bytes | None

    @property
    def dataset(self) -> str:
        return self.results["dataset"] if self.results else self.record.fields["data"]

    @property
    def network(self) -> str:
        return models.title(self.record.fields["model"])

    @property
    def training(self) -> str:
        return self.record.training

    @property
    def trained(self) -> str:
        if self.results is None:
            return f"{len(self.history)} epochs so far"
        best = f", evaluated: the best, epoch {self.results['epoch']}" if self.results["which"] == "best" else ""
        return f"{len(self.history)} epochs{best}; {self.results['test_images']} test images"

    @property
    def radius(self) -> str:
        return f"{self.record.threat.norm} {format_eps(self.record.threat.eps)}"

    @property
    def accuracy(self) -> dict[str, dict[str, float]]:
        return self.results["accuracy"] if self.results else {}

    @property
    def seconds_per_epoch(self) -> float:
        return sum(row["seconds"] for row in self.history) / len(self.history)

    @property
    def state(self) -> str:
        stopped = self.history[-1]["stopped"] if self.history else ""
        if stopped:
            return f"stopped early: {stopped}"
        if self.results is None and len(self.history) == self.record.optimizer.epochs:
            return "trained, not evaluated"
        if self.results is None:
            return f"unfinished, epoch {len(self.history)} of {self.record.optimizer.epochs}"
        return "finished"

    @property
    def findings(self) -> list[dict[str, Any]]:
        return [item for row in self.history for item in row["findings"]]


def write_page(folders: Sequence[str | Path], path: str | Path) -> Path:
    """Writes a report on the runs in these folders, finished or not, and returns its path.

    The page has no script and loads nothing: a table of the runs, their curves over the training, accuracy against the
    radius of the attack and by class, adversarial examples, what the monitors saw, configurations and environments.

    Args:
        folders: run folders, in the order in which to show them.
        path: the file to write.

    Raises:
        FileNotFoundError: a folder is not that of a run; the message names it.
        ValueError: no folders, or a file of a run that cannot be read; the message names it.
    """
    if not folders:
        raise ValueError("a report needs at least one run")
    paths = [Path(folder) for folder in folders]
    runs = [_read(folder, name) for folder, name in zip(paths, _names(paths), strict=True)]
    return html.save(_page(runs), path)


def _page(runs: Sequence[_Shown]) -> str:
    begun = [(number, run.name, run.history) for number, run in enumerate(runs) if run.history]
    evaluated = [(number, run.name, run.results) for number, run in enumerate(runs) if run.results is not None]
    configurations = [run.record.fields for run in runs]
    fields = list(dict.fromkeys(field for found in configurations for field in found))
    differing = [name for name in fields if len({repr(found.get(name)) for found in configurations}) > 1]
    same = all(run.environment == runs[0].environment for run in runs)
    recorded = runs[:1] if same else runs
    return html.render(
        "fastat.report",
        "runs.html",
        runs=runs,
        attacks={name: attack_title(name) for run in runs for name in run.accuracy},
        curves=page_figures.curves(begun) if begun else None,
        robustness=page_figures.robustness(evaluated) if evaluated else None,
        by_class=[(name, page_figures.by_class(number, name, results)) for number, name, results in evaluated],
        differing={field: _told_apart([found.get(field) for found in configurations]) for field in differing},
        shared={field: value for field, value in configurations[0].items() if field not in differing},
        recorded=["all runs"] if same and len(runs) > 1 else [run.name for run in recorded],
        environment={
            name: [run.environment.get(name, "") for run in recorded] for run in recorded for name in run.environment
        },
    )


def _told_apart(values: Sequence[object]) -> list[str]:
    """Values that differ, with all their digits where six look the same."""
    texts = [html.plain(value) for value in values]
    return texts if len(set(texts)) > 1 else [repr(value) for value in values]


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of their parents as it takes to tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for depth in range(1, max(len(part) for part in parts) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def _read(folder: Path, name: str) -> _Shown:
    if not (folder / CONFIG).exists():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no {CONFIG}")
    try:
        metrics = _content(folder, METRICS)
        if metrics is None and (folder / CHECKPOINT).exists():
            raise ValueError(f"{METRICS} is missing: the command that trained it makes it again")
        results, environment = _content(folder, "results.json"), _content(folder, ENVIRONMENT)
        return _Shown(
            name,
            record_in(read_object(read_inside(folder, CONFIG), {}, CONFIG), CONFIG),
            history_in(metrics or b"", METRICS),
            None if results is None else _results_in(results),
            {} if environment is None else read_object(environment, {...: str}, ENVIRONMENT),
            _picture(folder, "figures/adversarial_examples.png"),
        )
    except ValueError as error:
        raise ValueError(f"a file in {folder} cannot be read: {error}") from error


def _picture(folder: Path, name: str) -> bytes | None:
    content = _content(folder, name)
    if content is not None and not is_whole_png(content):
        raise ValueError(f"{name} is no whole picture: the command that trained it draws it again")
    return content


def _results_in(text: bytes) -> dict[str, Any]:
    """Those of results.json, whose accuracies are of the same attacks and classes wherever they are."""
    results = read_object(text, _RESULTS, "results.json")
    attacks, classes, curve = list(results["accuracy"]), len(results["classes"]), results["curve"]
    by_class = results["by_class"]["accuracy"]
    if "clean" not in attacks or "clean" not in by_class or attacks[-1] not in by_class:
        raise ValueError("results.json: accuracy and by_class must have those without an attack (clean) and under one")
    if any(len(found) != classes for found in by_class.values()) or len(curve["eps"]) != len(curve["accuracy"]):
        raise ValueError("results.json: by_class must have an accuracy for each class, and curve one for each eps")
    if any(
        (one is None) != (other is None) for one, other in zip(by_class["clean"], by_class[attacks[-1]], strict=True)
    ):
        raise ValueError("results.json: by_class must have accuracies of the same classes, clean and under attack")
    return results


def _content(folder: Path, name: str) -> bytes | None:
    return read_inside(folder, name) if (folder / name).exists() else None
