"""``fastat theory``: experiments by name, their flags and presets, all of them, and the page."""

from __future__ import annotations

import json
from dataclasses import replace
from inspect import signature
from pathlib import Path

import pytest

from fastat.cli import main
from fastat.cli import theory as command
from fastat.cli.commands import Theory
from fastat.cli.reading import parse
from fastat.theory import EXPERIMENTS, experiment
from fastat.theory.contract import Experiment
from fastat.theory.page import write_theory_page

SMALL = [
    "--eps",
    "3/10",
    "--points",
    "20",
    "--simulated-psi1",
    "1",
    "--radius-psi1",
    "1",
    "--radius-parts",
    "0.5",
    "1.2",
]
SMALL += ["--d", "10", "--trials", "2", "--jobs", "1"]


@pytest.mark.parametrize("given", [["theory"], ["theory", "--help"]])
def test_the_experiments_are_listed(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(given)
    listed = capsys.readouterr().out
    assert stop.value.code == 0 and all(name in listed for name in EXPERIMENTS)


def test_flags_start_from_the_preset() -> None:
    for preset in ("quick", "paper"):
        settings = experiment("cgro").PRESETS[preset]
        found = parse(
            ["theory", "cgro", f"--preset={preset}", "--epochs", "7", "--device", "cpu", "--phase-deltas", "1/8"]
        )
        assert isinstance(found, Theory) and found.settings == replace(settings, epochs=7, phase_deltas=(0.125,))
        assert (found.name, found.preset, found.resources.device) == ("cgro", preset, "cpu")


def test_an_experiment_may_be_named_as_its_package() -> None:
    found = parse(["theory", "random_features", "--points", "5"])
    assert found == parse(["theory", "random-features", "--points", "5"])
    assert isinstance(found, Theory) and found.name == "random-features"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_flags_with_help_and_two_presets(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastat.theory.cost._seconds_per_pass", lambda *arguments: 1e-3)  # not of a large network here
    with pytest.raises(SystemExit) as stop:
        main(["theory", name, "--help"])
    assert stop.value.code == 0 and "--preset" in capsys.readouterr().out
    module = experiment(name)
    assert list(signature(module.run).parameters) == list(signature(Experiment.run).parameters)[1:]
    assert set(module.PRESETS) == {"quick", "paper"}
    assert all(module.cost(settings) for settings in module.PRESETS.values())


def test_an_experiment_runs_says_what_it_costs_and_what_it_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["theory", "random-features", *SMALL, "--out", str(tmp_path / "rf")])
    told = capsys.readouterr().out
    assert told.startswith("random-features: 40 theoretical points") and "[reproduced] Beyond the interpolation" in told
    results = json.loads((tmp_path / "rf" / "results.json").read_text())
    assert results["settings"]["eps"] == [0.3] and (tmp_path / "rf" / "statement.md").exists()


def test_another_experiment_is_not_written_over(tmp_path: Path) -> None:
    main(["theory", "random-features", *SMALL, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"other settings \(trials: 2 -> 3\)"):
        main(["theory", "random-features", *SMALL, "--trials", "3", "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["random-features", "--psi2", "-1"], "psi2 must be above 0"),
        (["random-features", "--points", "1"], "points must be at least 3, got 1"),
        (["random-features", "--jobs", "0"], "error: --jobs: jobs must be at least 1, got 0"),
        (["all", "--jobs", "0"], "error: --jobs: jobs must be at least 1, got 0"),
        (["page", "/nowhere"], "holds no results"),
        (["page"], "at least one experiment"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], named: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["theory", *arguments])
    assert named in str(stop.value) and str(stop.value).count("\n") == 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["something"], "random-features"),
        (["random-features", "--preset", "huge"], "'huge'"),
        (["random-features", "--preset"], "--preset"),
        (["page", "--bad"], "--bad"),
        (["random-features", "--unknown", "1"], "--unknown"),
        (["random-features", "--name", "cgro"], "--name"),
    ],
)
def test_a_wrong_command_line_is_explained(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["theory", *arguments])
    assert stop.value.code == 2 and named in capsys.readouterr().err


def test_all_experiments_end_with_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = experiment("random-features")
    small = replace(module.PRESETS["quick"], eps=(0.3,), points=20, simulated_psi1=(1.0,), d=(10,), trials=2)
    monkeypatch.setitem(module.PRESETS, "quick", small)
    monkeypatch.setattr(command, "EXPERIMENTS", {"random-features": "of a test"})
    main(["theory", "all", "--out", str(tmp_path), "--jobs", "1"])
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/png;base64") == 3 and "<script" not in page and "http" not in page
    assert str(tmp_path / "index.html") in capsys.readouterr().out
    main(["theory", "page", str(tmp_path / "random-features"), "--out", str(tmp_path / "again.html")])
    assert (tmp_path / "again.html").read_text() == page


def test_what_a_page_shows_is_escaped_and_checked(tmp_path: Path) -> None:
    results = {"experiment": "x", "title": "A < B", "settings": {"n": [1, 2.5]}, "figures": [], "environment": {}}
    finding = {"claim": "p < q & r", "verdict": "partly", "evidence": "<b>"}
    more = [{**finding, "verdict": verdict} for verdict in ("Partly", "reproduced", "partly")]
    (tmp_path / "results.json").write_text(json.dumps({**results, "findings": [finding, *more]}))
    page = write_theory_page([tmp_path], tmp_path / "page.html").read_text()
    assert "2 partly, 1 Partly, 1 reproduced" in page
    assert "A &lt; B" in page and "p &lt; q &amp; r" in page and "&lt;b&gt;" in page and "1, 2.5" in page
    (tmp_path / "results.json").write_text(json.dumps(results))
    with pytest.raises(ValueError, match="lacks findings"):
        write_theory_page([tmp_path], tmp_path / "page.html")
    with pytest.raises(ValueError, match="at least one"):
        write_theory_page([], tmp_path / "page.html")


def test_no_text_of_results_becomes_markup_or_names_a_file_elsewhere(tmp_path: Path) -> None:
    payload = '<script>alert(1)</script>"'
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "a.png").write_bytes(b"figure")
    results = {
        "experiment": f"{payload}experiment",
        "title": f"{payload}title",
        "settings": {f"{payload}name": [f"{payload}value"]},
        "findings": [{name: f"{payload}{name}" for name in ("claim", "verdict", "evidence")}],
        "figures": [{"file": "a.png", "caption": f"{payload}caption"}],
        "environment": {f"{payload}name": f"{payload}value"},
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = write_theory_page([tmp_path], tmp_path / "page.html").read_text()
    assert "<script" not in page and page.count("&lt;script&gt;") == 14
    (tmp_path / "figures" / "link.png").symlink_to(tmp_path.parent / "secret.png")
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    for name in ("../../secret.png", str(tmp_path.parent / "secret.png"), "link.png", "..", "", "no.png", "a\0.png"):
        results["figures"] = [{"file": name, "caption": ""}]
        (tmp_path / "results.json").write_text(json.dumps(results))
        with pytest.raises((FileNotFoundError, ValueError), match=r"has no|outside of|not a regular file"):
            write_theory_page([tmp_path], tmp_path / "page.html")
    for field in ("experiment", "title", "settings", "findings", "figures", "environment"):
        (tmp_path / "results.json").write_text(json.dumps(results | {field: 3}))
        with pytest.raises(ValueError, match=rf"holds no results of an experiment: results\.json: {field} must"):
            write_theory_page([tmp_path], tmp_path / "page.html")
