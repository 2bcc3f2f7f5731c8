"""The experiment end to end, in small: the same numbers whatever runs beside, continued, stated and drawn."""

import dataclasses
import json

import joblib
import pytest
from matplotlib.image import imread

from fastat.theory.cgro import experiment
from fastat.theory.cgro.experiment import PRESETS, Settings, cost, run
from fastat.theory.cgro.networks import MemorizerCell, count_outcome, memorizer_outcome
from fastat.theory.contract import Resources

CPU = Resources(device="cpu")

SMALL = Settings(
    points=100,
    standard_epochs=2,
    standard_width=4,
    widths=(2, 4),
    epochs=1,
    train_size=64,
    network_seeds=2,
    attack="pgd-3",
    eval_size=50,
    dynamics=((0.8, 0.86), (0.9, 0.4)),
    dynamics_seeds=2,
    phase_deltas=(0.3, 0.8),
    phase_sigmas=(0.4, 0.86),
    phase_sizes=(20, 40),
    phase_seeds=1,
    max_steps=400,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cgro")
    return folder, run(SMALL, folder, CPU)


def test_the_numbers_fit_the_settings(small):
    _, result = small
    assert len(result.memorizers) == 2 and len(result.widths) == 4 and len(result.dynamics) == 4
    assert len(result.over_sigma) == len(result.over_size) == 4
    for row in result.memorizers:
        assert row["certified"] == 1 and row["corners"] == 1 and row["f_S"]["robust_train"] == 1
        assert row["points"] == 100 and row["f"]["robust_train"] < 1
        assert row["separation"] > 0.3
    assert {row["width"] for row in result.widths} == {2, 4}
    assert [row["kind"] for row in result.dynamics[:2]] == ["cgro", "cgro"]
    assert [row["fitted"] for row in result.dynamics[2:]] == [None, None]  # they would take 2,000 steps
    points = {(row["points"], row["dimension"]) for row in result.counts}
    assert points == {(6, 64), (12, 64), (25, 64), (50, 64), (100, 64), (6, 256), (6, 576), (6, 1024)}


def test_the_findings_follow_from_the_numbers(small):
    _, result = small
    found = {finding.claim: finding for finding in result.findings()}
    certified = next(f for claim, f in found.items() if "classifies every ball" in claim)
    assert certified.verdict == "reproduced" and "100.0% of 100 linf balls of radius 0.15" in certified.evidence
    assert next(f for claim, f in found.items() if "exponential" in claim).verdict == "not tested"
    bill = next(f for claim, f in found.items() if "O(N D)" in claim)
    assert bill.verdict == "reproduced" and "N^1.000" in bill.evidence

    broken = [{**row, "certified": 0.5, "f_S": {**row["f_S"], "clean_test": 0.1}} for row in result.memorizers]
    failed = [{**row, "kind": "robust", "fitted": None} for row in result.dynamics]
    worse = dataclasses.replace(result, memorizers=broken, dynamics=failed)
    verdicts = {finding.claim: finding.verdict for finding in worse.findings()}
    for claim in found:
        if "every ball" in claim or "keeps clean" in claim or "patch data shows" in claim or "first U grows" in claim:
            assert verdicts[claim] == "not reproduced", claim


def test_saved_and_drawn(small):
    folder, result = small
    result.save(folder)
    saved = json.loads((folder / "results.json").read_text())
    assert saved["experiment"] == "cgro" and len(saved["memorizers"]) == 2
    assert [row["file"] for row in saved["figures"]] == [
        "dynamics-1.png", "dynamics-2.png", "phases.png", "accuracies.png", "widths.png", "parameters.png",
    ]  # fmt: skip
    for row in saved["figures"]:
        assert imread(folder / "figures" / row["file"]).std() > 0.05
    assert "not tested" in (folder / "statement.md").read_text()


def test_continued_and_the_same_in_two_processes(small, tmp_path, monkeypatch):
    folder, result = small
    with joblib.parallel_config(n_jobs=2):
        beside = run(SMALL, tmp_path, CPU)
    assert beside == result

    def never(*_args, **_options):
        raise AssertionError("a finished cell was run again")

    monkeypatch.setattr("fastat.theory.sweep._run_one", never)
    assert run(SMALL, folder, CPU) == result


def test_too_large_a_radius_is_named(tmp_path):
    cell = MemorizerCell("digits", 0.45, 4, 1, 200, "pgd-3", 50, 0)
    with pytest.raises(ValueError, match=r"delta=0.45 needs points of different classes more than 2 delta = 0.9 apart"):
        memorizer_outcome(cell, folder=tmp_path, device="cpu")
    assert count_outcome(experiment.count_cells(SMALL, {"digits": 1438})[0], device="cpu")["parameters"] > 0


def test_cost_and_presets():
    for settings in PRESETS.values():
        assert settings.data and "training runs on patch data" in cost(
            dataclasses.replace(settings, widths=(2,), standard_width=2)
        )
    assert PRESETS["paper"].data == ("mnist", "cifar10")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deltas": (0.1, 0.2)}, "deltas must be a number in .* for each of"),
        ({"deltas": (0.0,)}, "deltas must be"),
        ({"data": ("nothing",), "deltas": (0.1,)}, "data must be one of"),
        ({"widths": ()}, "widths must hold different values"),
        ({"widths": (4, 4)}, r"widths must hold different values, at least one, got \(4, 4\)"),
        ({"widths": (0,)}, "width must be at least 1, got 0"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"dynamics_seeds": 0}, "dynamics_seeds must be at least 1, got 0"),
        ({"phase_deltas": (1.0,)}, r"phase_deltas and the radii of dynamics must be in \(0, 1\), got"),
        ({"dynamics": ((0.8, 0.0),)}, "noise must be above 0 and N at least 1"),
        ({"phase_sizes": (0,)}, "noise must be above 0 and N at least 1"),
        ({"points": 10}, "points must be at least 32 if given, got 10"),
        ({"attack": "cw"}, "attack must be pgd-STEPS or pgd-STEPSxRESTARTS, got 'cw'"),
        ({"eval_size": 0}, "eval_size must be at least 1 if given, got 0"),
        ({"train_size": 1}, "train_size must be at least 2 if given, got 1"),
    ],
)
def test_settings_out_of_range(changes, message):
    with pytest.raises(ValueError, match=message):
        Settings(**changes)
