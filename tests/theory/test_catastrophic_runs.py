"""The experiment as a whole: cells, grids, findings, figures, and the collapse itself."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from fastat import data
from fastat.theory.catastrophic import Cell, carriers, collapse_epoch, run_cell, run_cells, sweep, train_config
from fastat.theory.catastrophic.cell import METHODS, measurement
from fastat.theory.catastrophic.experiment import PRESETS, Settings, cost, run
from fastat.theory.catastrophic.outcome import CatastrophicResult
from fastat.theory.catastrophic.settings import cells
from fastat.theory.catastrophic.sweeping import Outcome

TINY = Cell(width=2, epochs=2, batch_size=100, train_size=200, test_size=20, attack="pgd-2", measure_every=2)
SMALL = Settings(
    width=2, epochs=2, batch_size=100, train_size=200, test_size=20, attack="pgd-2", methods=("rs-fgsm",), seeds=(0, 1)
)


def row(epoch: int, fgsm: float, pgd: float, **more: float) -> dict[str, float]:
    parts = dict.fromkeys(("clean", "injected", "original", "removed", "alone", "reversed"), 0.9)
    return {"epoch": epoch, "fgsm": fgsm, "pgd": pgd, "curvature": 1.0, **parts, **more}


class TestCell:
    @pytest.mark.parametrize("method", METHODS)
    def test_trains_without_augmentation_and_box(self, method):
        for name in ("digits", "cifar10"):
            model = "small_cnn" if name == "digits" else "preact_resnet18"
            config = train_config(Cell(method=method, data=name, model=model, width=None))
            assert (config.dataset.augment, config.dataset.cutout, config.threat.box, config.dataset.val_size) == (
                "none",
                0,
                False,
                0,
            )
            assert config.method.protocol == METHODS[method] and config.method.attack_mode == "train"
        assert (config.method.grad_align == 0.2) == (method == "gradalign")
        assert config.method.attack_steps == 10

    def test_unknown_method(self):
        with pytest.raises(ValueError, match=r"method must be one of fgsm, .*, got 'free'"):
            train_config(Cell(method="free"))

    def test_same_numbers_again_and_beside_others(self, tmp_path):
        one = run_cell(TINY, folder=tmp_path / "one")
        assert one == run_cell(TINY, folder=tmp_path / "two")
        both = run_cells([dataclasses.replace(TINY, beta=0.3), TINY], tmp_path / "three")
        assert both[1].history == one["history"] != both[0].history
        assert [row["epoch"] for row in one["history"]] == [2]
        assert json.loads(json.dumps(one)) == one

    def test_measurement_is_of_the_injected_images(self):
        """A network that reads the pattern of class 0 with a wide margin withstands attacks on images that carry it."""
        test = data.load("digits").test.load().subset(60, 0)
        cell = Cell(beta=3.0, eps=0.1, attack="pgd-5")

        class Reader(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.patterns = nn.Parameter(carriers(10, (1, 8, 8)))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.flatten(1) @ self.patterns.flatten(1).T

        found = measurement(test, cell)(Reader())
        assert found["clean"] == found["fgsm"] == found["pgd"] == found["alone"] == found["injected"] == 1.0
        assert found["reversed"] == 0.0

    def test_low_pass_is_there_in_training_and_left_out_after(self, tmp_path):
        found = run_cell(dataclasses.replace(TINY, bandwidth=2), folder=tmp_path)
        assert found["unfiltered"].keys() == found["history"][-1].keys() - {"epoch"}
        assert found["unfiltered"]["curvature"] != found["history"][-1]["curvature"]
        assert "unfiltered" not in run_cell(TINY, folder=tmp_path)


class TestCollapseEpoch:
    def test_for_good(self):
        assert collapse_epoch([row(1, 0.5, 0.4), row(2, 0.8, 0.6), row(3, 0.9, 0.1), row(4, 0.9, 0.0)]) == 3
        assert collapse_epoch([row(1, 0.8, 0.6), row(2, 0.9, 0.1), row(3, 0.9, 0.5)]) is None
        assert collapse_epoch([row(1, 0.8, 0.6), row(2, 0.9, 0.1), row(3, 0.8, 0.5), row(4, 0.9, 0.2)]) == 4

    def test_other_declines_are_none(self):
        assert collapse_epoch([row(1, 0.8, 0.6), row(2, 0.9, 0.5)]) is None
        assert collapse_epoch([row(1, 0.8, 0.6), row(2, 0.2, 0.1)]) is None  # FGSM breaks it as well


class TestSweep:
    def test_grid(self, tmp_path):
        found = sweep((0.0, 0.2), (0.1,), "n-fgsm", seeds=(0, 1), base=TINY, folder=tmp_path)
        assert [(o.cell.beta, o.cell.eps, o.cell.seed) for o in found.outcomes] == [
            (0.0, 0.1, 0),
            (0.0, 0.1, 1),
            (0.2, 0.1, 0),
            (0.2, 0.1, 1),
        ]
        assert all(o.cell.method == "n-fgsm" for o in found.outcomes)
        assert [o.cell.seed for o in found.at(0.2, 0.1)] == [0, 1]
        files = sorted((tmp_path / "cells").iterdir())
        times = [file.stat().st_mtime_ns for file in files]
        assert sweep((0.0, 0.2), (0.1,), "n-fgsm", seeds=(0, 1), base=TINY, folder=tmp_path) == found
        assert [file.stat().st_mtime_ns for file in files] == times


class TestSettings:
    def test_cells(self):
        found = cells(SMALL)
        assert len(set(found)) == len(found) == 6 + 2 + 1 + 1 + 1
        assert sum(cell.method != "fgsm" for cell in found) == 1
        assert {(c.beta, c.eps) for c in found if c.seed == 1} == {(0.1, 0.2), (0.0, 0.2)}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"betas": (0.1,)}, "betas must be at least 0, and 0 among them"),
            ({"betas": (0.0, 0.1, 0.1)}, "betas must hold different values"),
            ({"beta": 0.0}, "beta must be one of betas, above 0, got 0.0"),
            ({"eps": 0.3}, "eps must be one of epsilons, all above 0, got 0.3"),
            ({"methods": ("fgsm",)}, "methods must differ from each other and from fgsm"),
            ({"bandwidths": (0,)}, "bandwidths must be at least 1"),
            ({"measure_every": 0}, "measure_every must be at least 1, got 0"),
            ({"seeds": ()}, "seeds must hold different values, at least one"),
            ({"epochs": 0}, "epochs must be at least 1, got 0"),
            ({"model": "resnet"}, "model must be one of"),
        ],
    )
    def test_wrong_values(self, change, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMALL, **change)

    def test_presets(self):
        paper = PRESETS["paper"]
        assert (paper.data, paper.model, paper.epochs, paper.attack) == ("cifar10", "preact_resnet18", 30, "pgd-50x10")
        assert cost(SMALL).startswith("11 trainings of 22 epochs together")


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> tuple[CatastrophicResult, list[str]]:
    folder = tmp_path_factory.mktemp("catastrophic")
    found = run(SMALL, folder)
    found.save(folder)
    return found, sorted(path.name for path in (folder / "figures").iterdir())


class TestResult:
    def test_is_saved_whole(self, result):
        found, figures = result
        assert figures == ["carriers.png", "collapse.png", "compared.png", "grid.png", "parts.png"]
        assert len(found.collapsing) == len(found.without) == 2
        assert [o.cell.method for o in found.compared()] == ["fgsm", "rs-fgsm"]
        assert [o.cell.bandwidth for o in found.compared(filtered=True)] == [4]
        assert found.test_images == 20

    def test_verdicts_follow_the_numbers(self, result):
        sound = [row(1, 0.8, 0.6), row(2, 0.9, 0.6)]
        gone = [row(1, 0.8, 0.6), row(2, 0.9, 0.1, curvature=9.0, alone=0.1)]

        def verdicts(where: Callable[[Cell], bool]) -> list[str]:
            """In the order of the findings, where training collapses in these cells and in no other."""
            outcomes = []
            for outcome in result[0].outcomes:
                history = gone if where(outcome.cell) else sound
                outcomes.append(Outcome(outcome.cell, history, collapse_epoch(history), outcome.unfiltered))
            return [finding.verdict for finding in dataclasses.replace(result[0], outcomes=outcomes).findings()]

        no, yes = "not reproduced", "reproduced"
        induced, radius, strong, curved, methods, noise, parts, low_pass, projected = range(9)
        found = verdicts(lambda cell: False)
        assert [found[i] for i in (induced, radius, strong, noise, projected, low_pass)] == [no, yes, no, no, no, yes]
        assert [found[i] for i in (curved, methods, parts)] == ["not tested"] * 3
        found = verdicts(lambda cell: (cell.beta, cell.eps) == (0.1, 0.2))
        assert [found[i] for i in (induced, radius, curved, noise, parts, projected, low_pass)] == [yes] * 6 + [no]
        assert verdicts(lambda cell: (cell.beta, cell.eps, cell.seed) == (0.1, 0.2, 0))[induced] == "partly"
        assert verdicts(lambda cell: cell.eps == 0.2)[induced] == "partly"  # without the feature, too
        assert verdicts(lambda cell: (cell.beta, cell.eps) == (0.1, 0.1))[radius] == "partly"


def final_over_best(folder: Path, beta: float, seed: int) -> float:
    """Of the PGD-20 accuracy on digits, FGSM training at eps 0.2."""
    robust = [row["pgd"] for row in run_cell(Cell(beta=beta, seed=seed, measure_every=12), folder=folder)["history"]]
    assert max(robust) > 0.4
    return robust[-1] / max(robust)


@pytest.mark.slow
def test_fgsm_collapses_on_injected_digits(tmp_path):
    """In one of three seeds: on other processors rounding leads training elsewhere, and four of five seeds collapse."""
    assert any(final_over_best(tmp_path, 0.1, seed) <= 0.5 for seed in range(3))


@pytest.mark.skipif(
    not os.environ.get("FASTAT_SLOW"), reason="six trainings, another outcome per CPU: FASTAT_SLOW=1 runs them"
)
def test_three_seeds_collapse_with_the_feature_and_none_without(tmp_path):
    assert max(final_over_best(tmp_path, 0.1, seed) for seed in range(3)) <= 0.5
    assert min(final_over_best(tmp_path, 0.0, seed) for seed in range(3)) >= 0.8
