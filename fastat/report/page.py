"""One HTML page, complete in itself, that shows training runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, get_args

from fastat import models
from fastat.report import html, page_figures
from fastat.report.results import NORM_TITLES, attack_title, format_eps
from fastat.support.files import write_bytes
from fastat.support.foreign_json import read_inside, read_object
from fastat.training import CONFIG, ENVIRONMENT, METRICS, TrainConfig, Which, as_fields, config_from, describe_training

_ROW = {
    "epoch": int,
    "lr": float,
    "train": {"loss": float},
    "val": {...: float},
    "seconds": float,
    "findings": [{"monitor": str, "step": int, "text": str}],
    "stopped": str,
}
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
"""What the page shows of a line of metrics.jsonl, and of results.json."""


@dataclass(frozen=True)
class _Shown:
    """A run folder, as far as it is there."""

    name: str
    config: TrainConfig
    history: list[dict[str, Any]]
    results: dict[str, Any] | None
    environment: dict[str, str]
    examples: bytes | None

    @property
    def state(self) -> str:
        stopped = self.history[-1]["stopped"] if self.history else ""
        if stopped:
            return f"stopped early: {stopped}"
        if self.results is None and len(self.history) == self.config.optimizer.epochs:
            return "trained, not evaluated"
        if self.results is None:
            return f"unfinished, epoch {len(self.history)} of {self.config.optimizer.epochs}"
        return "finished"


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
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, _page(runs).encode())
    return target


def _page(runs: Sequence[_Shown]) -> str:
    begun = [(number, run.name, run.history) for number, run in enumerate(runs) if run.history]
    evaluated = [(number, run.name, run.results) for number, run in enumerate(runs) if run.results is not None]
    parts = ["<h1>Training runs</h1>", _runs_table(runs)]
    if begun:
        parts += ["<h2>Training</h2>", html.wide(page_figures.curves(begun), "Each run over its epochs.")]
    if evaluated:
        caption = "Test accuracy under attacks of growing radius; dashed: the radius of the training."
        parts += ["<h2>Accuracy against the radius</h2>", html.wide(page_figures.robustness(evaluated), caption)]
        parts += ["<h2>Accuracy by class</h2>", '<div class="panels">']
        parts += [html.figure(page_figures.by_class(*run), escape(run[1])) for run in evaluated]
        parts.append("</div>")
    parts += _examples(runs)
    parts += ["<h2>What the monitors saw</h2>", *(_findings(run) for run in runs)]
    parts += ["<h2>Configuration</h2>", *_configuration(runs)]
    parts += ["<h2>Environment</h2>", _environment(runs)]
    return html.document(f"fastat: {', '.join(run.name for run in runs)}", parts)


def _runs_table(runs: Sequence[_Shown]) -> str:
    attacks = list(dict.fromkeys(name for run in runs if run.results for name in run.results["accuracy"]))
    head = ["run", "data, network", "training", "eps", *map(attack_title, attacks), "time per epoch", "state"]
    rows = []
    for run in runs:
        config = run.config
        title = run.results["dataset"] if run.results else config.dataset.data
        seconds = [row["seconds"] for row in run.history]
        cells = [
            f"<td>{escape(title)}, {escape(models.title(config.network.model))}</td>",
            f"<td>{escape(describe_training(config))}<small>{escape(_trained(run))}</small></td>",
            f"<td>{escape(config.threat.norm)} {escape(format_eps(config.threat.eps))}</td>",
            *(_accuracy(run, name) for name in attacks),
            f'<td class="number">{sum(seconds) / len(seconds):.2f} s</td>' if seconds else "<td></td>",
            f"<td>{escape(run.state)}</td>",
        ]
        rows.append(f'<tr><th scope="row">{escape(run.name)}</th>{"".join(cells)}</tr>')
    note = "Test accuracy with its 95% interval over the draw of the test images. Time: of the training steps alone."
    return html.table(head, rows) + f"<p><small>{note}</small></p>"


def _trained(run: _Shown) -> str:
    if run.results is None:
        return f"{len(run.history)} epochs so far"
    best = f", evaluated: the best, epoch {run.results['epoch']}" if run.results["which"] == "best" else ""
    return f"{len(run.history)} epochs{best}; {run.results['test_images']} test images"


def _accuracy(run: _Shown, name: str) -> str:
    found = run.results["accuracy"].get(name) if run.results else None
    if found is None:
        return "<td></td>"
    low, high = found["low"], found["high"]
    return f'<td class="number">{found["accuracy"]:.1%}<small>{low:.1%} to {high:.1%}</small></td>'


def _examples(runs: Sequence[_Shown]) -> Iterable[str]:
    shown = [run for run in runs if run.examples is not None]
    if shown:
        yield "<h2>Adversarial examples</h2>"
    for run in shown:
        assert run.examples is not None
        text = "Test images, the same under attack with the prediction, and the amplified difference"
        yield html.wide(html.png(run.examples, text), escape(run.name))


def _findings(run: _Shown) -> str:
    found = [item for row in run.history for item in row["findings"]]
    items = "".join(
        f"<li>Step {item['step']}, {escape(item['monitor'])}: {escape(item['text'])}</li>" for item in found
    )
    return f"<h3>{escape(run.name)}</h3>" + (f"<ul>{items}</ul>" if items else "<p>Nothing.</p>")


def _configuration(runs: Sequence[_Shown]) -> Iterable[str]:
    """The fields in which the runs differ, then the others, folded away."""
    values = [{field: html.plain(value) for field, value in as_fields(run.config).items()} for run in runs]
    differing = [field for field in values[0] if len({found[field] for found in values}) > 1]
    head = ["field", *(run.name for run in runs)]
    if len(runs) > 1:
        yield "<p>The runs differ in:</p>" if differing else "<p>All runs have one configuration.</p>"
        yield html.table(head, [_config_row(field, values, "differs") for field in differing]) if differing else ""
    rest = [_config_row(field, values[:1], "") for field in values[0] if field not in differing]
    yield f"<details><summary>{'What they share' if len(runs) > 1 else 'All fields'}</summary>"
    yield html.table(["field", "value"], rest) + "</details>"


def _config_row(field: str, values: Sequence[Mapping[str, str]], kind: str) -> str:
    cells = "".join(f"<td>{escape(found[field])}</td>" for found in values)
    return f'<tr class="{kind}"><th scope="row">{escape(field)}</th>{cells}</tr>'


def _environment(runs: Sequence[_Shown]) -> str:
    """Of each run, or one column where they are the same."""
    names = list(dict.fromkeys(name for run in runs for name in run.environment))
    same = all(run.environment == runs[0].environment for run in runs)
    shown = runs[:1] if same else runs
    rows = [
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(run.environment.get(name, ''))}</td>" for run in shown)
        + "</tr>"
        for name in names
    ]
    head = ["all runs"] if same and len(runs) > 1 else [run.name for run in shown]
    return html.table(["", *head], rows) if rows else "<p>Not recorded.</p>"


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
        metrics = _content(folder, METRICS) or b""
        results, environment = _content(folder, "results.json"), _content(folder, ENVIRONMENT)
        return _Shown(
            name,
            config_from(read_object(read_inside(folder, CONFIG), {}, CONFIG)),
            [read_object(line, _ROW, METRICS) for line in metrics.splitlines()],
            None if results is None else read_object(results, _RESULTS, "results.json"),
            {} if environment is None else read_object(environment, {...: str}, ENVIRONMENT),
            _content(folder, "figures/adversarial_examples.png"),
        )
    except ValueError as error:
        raise ValueError(f"a file in {folder} cannot be read: {error}") from error


def _content(folder: Path, name: str) -> bytes | None:
    return read_inside(folder, name) if (folder / name).exists() else None
