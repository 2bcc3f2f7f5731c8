"""One HTML page, complete in itself, of what experiments found."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from fastat.report import html
from fastat.support.files import write_bytes
from fastat.support.foreign_json import read_inside, read_object
from fastat.theory.result import FIGURES, RESULTS

_RESULTS = {
    "experiment": str,
    "title": str,
    "settings": {...: object},
    "findings": [{"claim": str, "verdict": str, "evidence": str}],
    "figures": [{"file": str, "caption": str}],
    "environment": {...: object},
}
"""What the page shows of results.json."""


def write_theory_page(folders: Sequence[str | Path], path: str | Path) -> Path:
    """Writes a page with the findings, figures and settings of saved results, and returns its path.

    Args:
        folders: where results were saved (:meth:`fastat.theory.Result.save`), in the order to show them in.
        path: the file to write; its folder is made if missing.

    Raises:
        FileNotFoundError: a folder holds no results; the message names it.
        ValueError: no folders, or results that cannot be read; the message names the file.
    """
    if not folders:
        raise ValueError("a page needs at least one experiment")
    places = [Path(folder) for folder in folders]
    shown = [(place, _read(place / RESULTS)) for place in places]
    parts = [
        "<h1>Theory lab</h1>",
        "<p>What the papers prove or observe, and what was seen here.</p>",
        _contents(shown),
    ]
    for place, results in shown:
        parts += _experiment(place, results)
    parts += ["<h2>Environment</h2>", _mapping(shown[0][1]["environment"])]
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, html.document("fastat: theory lab", parts).encode())
    return target


def _read(file: Path) -> dict[str, Any]:
    if not file.exists():
        raise FileNotFoundError(f"{file.parent} holds no results of an experiment: it has no {file.name}")
    try:
        return read_object(read_inside(file.parent, file.name), _RESULTS, file.name)
    except ValueError as error:
        raise ValueError(f"{file.parent} holds no results of an experiment: {error}") from error


def _contents(shown: Sequence[tuple[Path, Mapping[str, Any]]]) -> str:
    rows = []
    for _, results in shown:
        verdicts = [finding["verdict"] for finding in results["findings"]]
        counts = ", ".join(f"{verdicts.count(one)} {one}" for one in dict.fromkeys(verdicts))
        link = f'<a href="#{escape(results["experiment"])}">{escape(results["title"])}</a>'
        rows.append(f"<tr><td>{link}</td><td>{escape(counts)}</td></tr>")
    return html.table(["experiment", "claims"], rows)


def _experiment(place: Path, results: Mapping[str, Any]) -> Iterator[str]:
    yield f'<h2 id="{escape(results["experiment"])}">{escape(results["title"])}</h2>'
    rows = [
        f'<tr><td>{escape(found["claim"])}</td><td class="verdict">{escape(found["verdict"])}</td>'
        f"<td>{escape(found['evidence'])}</td></tr>"
        for found in results["findings"]
    ]
    yield html.table(["claim", "here", "numbers"], rows)
    for picture in results["figures"]:
        content = read_inside(place, f"{FIGURES}/{picture['file']}")
        yield html.wide(html.png(content, picture["caption"]), escape(picture["caption"]))
    yield f"<details><summary>Settings</summary>{_mapping(results['settings'])}</details>"


def _mapping(values: Mapping[str, Any]) -> str:
    rows = [
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(html.plain(value))}</td></tr>'
        for name, value in values.items()
    ]
    return html.table(["", ""], rows)
