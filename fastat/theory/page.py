"""One HTML page, complete in itself, of what experiments found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastat.report import html
from fastat.support.files.foreign_json import read_inside, read_object
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
    shown = [_read(Path(folder)) for folder in folders]
    page = html.render("fastat.theory", "theory.html", experiments=shown, environment=shown[0]["environment"])
    return html.save(page, path)


def _read(folder: Path) -> dict[str, Any]:
    """The results in a folder, with the content of the figures."""
    if not (folder / RESULTS).exists():
        raise FileNotFoundError(f"{folder} holds no results of an experiment: it has no {RESULTS}")
    try:
        results = read_object(read_inside(folder, RESULTS), _RESULTS, RESULTS)
        contents = [read_inside(folder, f"{FIGURES}/{figure['file']}") for figure in results["figures"]]
    except ValueError as error:
        raise ValueError(f"{folder} holds no results of an experiment: {error}") from error
    figures = [{**figure, "content": content} for figure, content in zip(results["figures"], contents, strict=True)]
    return {**results, "figures": figures}
