"""A script in place of every text, name and number of every file that a page reads, one at a time."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from damage import at, places, put
from markupsafe import Markup
from training_cases import TINY

from fastat import data
from fastat.report import page_figures, write_page, write_results
from fastat.theory.page import write_theory_page
from fastat.training import train_configured, with_fields

PAYLOAD = "<script>alert('$x$')</script>&\""
THEORY = {
    "experiment": "cgro",
    "title": "A title",
    "settings": {"eps": [0.1, 0.2], "data": "digits", "seed": 3},
    "findings": [{"claim": "p", "verdict": "partly", "evidence": "0.3"}],
    "figures": [{"file": "a.png", "caption": "c"}],
    "environment": {"torch": "2.11", "threads": 2},
    "more": [1.5],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A finished run whose files have something everywhere."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    network = train_configured(with_fields(TINY, model="mlp", width=16, epochs=1), folder, quiet=True)
    write_results(network, data.load("digits").test.subset(12, 0), folder)
    row = json.loads((folder / "metrics.jsonl").read_text())
    row |= {"findings": [{"monitor": "m", "step": 1, "text": "t"}], "stopped": "s", "measured": {"m": 1.0}}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    return folder


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Pages without their drawings, which take most of the time."""
    for name in ("curves", "robustness", "by_class"):
        monkeypatch.setattr(page_figures, name, lambda *_: Markup(""))


def planted(value: Any) -> Iterator[tuple[str, Any]]:
    """Copies of a JSON value with the payload in one place, and a name for that."""
    for place in places(value):
        inside, name = at(value, place), ".".join(map(str, place))
        if isinstance(inside, str):
            yield f"the text {name}", put(value, place, f"{PAYLOAD}{inside}")
            yield f"the whole of text {name}", put(value, place, PAYLOAD)
        elif not isinstance(inside, dict | list):
            yield f"the number {name}", put(value, place, PAYLOAD)
        if isinstance(place[-1], str):
            around = at(value, place[:-1])
            renamed = {PAYLOAD + key if key == place[-1] else key: item for key, item in around.items()}
            yield f"the name {name}", put(value, place[:-1], renamed) if place[:-1] else renamed


def shown_or_refused(write: Callable[[], Path], what: str, named: str) -> bool:
    """Whether a page came about, in which the payload is text; else the error must name the file."""
    text = said = ""
    try:
        text = write().read_text()
    except (FileNotFoundError, ValueError) as raised:
        said = str(raised)
    if said:
        assert named in said and len(said.splitlines()) == 1, what
        return False
    assert "<script" not in text.lower(), what
    assert PAYLOAD not in text, what
    return True


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "results.json", "environment.json"])
def test_nothing_in_a_run_becomes_markup(run, tmp_path, undrawn, name):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    seen = {True: 0, False: 0}
    for what, value in planted(json.loads((folder / name).read_text())):
        (folder / name).write_text(json.dumps(value) + "\n")
        seen[shown_or_refused(lambda: write_page([folder], tmp_path / "page.html"), what, name)] += 1
    assert seen[True] > 0 and (seen[False] > 0 or name == "environment.json")


def test_nothing_in_an_experiment_becomes_markup(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"png")
    seen = {True: 0, False: 0}
    for what, value in planted(THEORY):
        (tmp_path / "results.json").write_text(json.dumps(value))
        named = "figures/<script>" if "text figures.0.file" in what else "results.json"
        seen[shown_or_refused(lambda: write_theory_page([tmp_path], tmp_path / "p.html"), what, named)] += 1
    assert seen[True] > 0 and seen[False] > 0


def test_the_largest_numbers_are_drawn_or_refused(run, tmp_path):
    """What passes as a number: the drawings take it."""
    folder = tmp_path / "run"
    for name in ("metrics.jsonl", "results.json"):
        shutil.copytree(run, folder)
        value = json.loads((folder / name).read_text())
        for place in places(value):
            if isinstance(at(value, place), float):
                value = put(value, place, 1e100)
        (folder / name).write_text(json.dumps(value) + "\n")
        assert "</html>" in write_page([folder], tmp_path / "page.html").read_text()
        shutil.rmtree(folder)


def test_texts_in_drawings_are_texts(run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    results = json.loads((folder / "results.json").read_text())
    for named in (results["accuracy"], results["by_class"]["accuracy"]):
        named[PAYLOAD] = named.pop("pgd-50x10")
    results["classes"] = [f"{PAYLOAD}{name}"[-16:] for name in results["classes"]]
    results["curve"]["attack"] = PAYLOAD
    (folder / "results.json").write_text(json.dumps(results))
    text = write_page([folder], tmp_path / "page.html").read_text()
    assert "<script" not in text.lower() and "&lt;script&gt;" in text.lower()
