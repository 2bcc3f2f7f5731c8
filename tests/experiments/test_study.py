"""The study's machinery: what is measured, that runs are kept, and that its words are counted from its numbers."""

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments.study.__main__ import main
from experiments.study.cells import ALPHAS, ARMS, DATASETS, PLAIN, RS, Cell, cells_of, config_of, setting_of
from experiments.study.figures import draw
from experiments.study.measure import in_sample, measurement
from experiments.study.runs import jobs_of
from experiments.study.summary import Outcome, Spread, by_cell, curve, robust
from experiments.study.text import kept, number, write_text
from fastat import data
from fastat.evaluation import adversarial_losses
from fastat.kernels.reference import holistic_loss
from fastat.training import check_config, open_configured


def test_every_cell_is_a_valid_run_of_its_own():
    for quick in (False, True):
        jobs = [job for name in DATASETS for job in jobs_of(cells_of(name, quick), Path("nowhere"), quick)]
        assert len({job.folder for job in jobs}) == len({job.config for job in jobs}) == len(jobs)
        for job in jobs:
            check_config(job.config)
            assert job.config.optimizer.epochs % setting_of(job.cell.data, quick).measure_every == 0


def test_arms_train_at_the_budgets_they_are_judged_at():
    for arm in ARMS.values():
        config = config_of(Cell("digits", arm.name, 0.1, 10), 0, quick=False)
        assert (config.method.objective == "holistic") == (arm.alpha + arm.r > 0)
        if config.method.objective == "holistic":
            assert (config.method.alpha, config.method.r) == (arm.alpha, arm.r)
        assert arm.alpha in ALPHAS and arm.r in RS
        assert config.dataset.label_noise == 0.1


def test_measurement_by_hand(tmp_path):
    config = config_of(Cell("digits", PLAIN.name, 0.1, 10), 1, quick=True)
    run = open_configured(config, tmp_path, None, torch.device("cpu"))
    found = measurement(config, None, 60)(run.learner.model)
    train, test = run.images.train_set, data.load("digits").test.subset(60, 0)
    losses = adversarial_losses(
        run.learner.model,
        train.pixels(),
        train.labels,
        config.threat.eps,
        attack="pgd-10",
        seed=1,
        sample_ids=train.ids,
    ).double()
    assert found[in_sample(0.1, 0.2)] == pytest.approx(float(holistic_loss(losses, 0.1, 0.2)), rel=1e-6)
    assert found[in_sample(0.0, 0.0)] == pytest.approx(float(losses.mean()), rel=1e-6)
    on_test = adversarial_losses(
        run.learner.model, test.pixels(), test.labels, config.threat.eps, attack="pgd-10", seed=1, sample_ids=test.ids
    )
    assert found["test loss"] == pytest.approx(float(on_test.mean()), rel=1e-6)
    right = run.learner.model.eval()(test.pixels()).argmax(1) == test.labels
    assert found["clean"] == pytest.approx(float(right.float().mean()))
    assert len(found) == len(ALPHAS) * len(RS) + 3


def outcome(arm: str, seed: int, own: float, test: float, noise: float = 0.0) -> Outcome:
    """A run whose in-sample losses are ``own`` at every budget."""
    losses = {in_sample(alpha, r): own for alpha in ALPHAS for r in RS}
    rows = [
        {"epoch": epoch, **losses, "test loss": test, "clean": 0.9, "robust": value}
        for epoch, value in ((6, 0.5), (12, 0.7), (18, 0.6))
    ]
    return Outcome(Cell("digits", arm, noise, 10), seed, 500, rows, 60.0)


def test_numbers_over_seeds():
    runs = [outcome("HR r 0.1", seed, 1.0 + seed, 1.5) for seed in range(2)]
    assert by_cell(runs) == {runs[0].cell: runs}
    assert [run.margin(run.rows[-1]) for run in runs] == [-0.5, 0.5]
    assert runs[0].gap == pytest.approx(0.1)
    assert curve(runs, robust) == [Spread((0.5, 0.5)), Spread((0.7, 0.7)), Spread((0.6, 0.6))]
    assert number(Spread((1.0, 2.0, 1.5))) == "1.500 (1.000 to 2.000)"
    assert kept([-0.1, 0.0, 0.2]) == "2 of 3"


def test_words_are_counted_from_the_numbers(tmp_path):
    runs = [outcome(PLAIN.name, seed, 0.5, 1.0) for seed in range(3)]
    runs += [outcome("HR r 0.1", seed, own, 1.0) for seed, own in enumerate((0.9, 1.0, 1.1))]
    runs += [outcome("HR r 0.1", 0, 2.0, 1.0, noise=0.1), outcome("HR r 0.2", 0, 2.3, 2.2, noise=0.1)]
    pictures = draw(runs, tmp_path)
    assert [path.name for path in pictures] == ["promise.png", "length-digits.png", "budgets.png"]
    for path in pictures:
        with Image.open(path) as image:
            assert len(image.convert("L").getcolors()) > 20
    write_text(runs, ["mnist: not there"], False, tmp_path / "study.md", pictures)
    text = (tmp_path / "study.md").read_text()
    assert "- digits, true labels: plain and BAT training in 0 of 3 runs, HR training in 2 of 3 runs." in text
    row = r"\| digits \| 0% \| HR r 0.1 \| 1.000 .* \| \+0.000 \| 2 of 3 \| 60.0% .* \| 1 - exp\(-50\) = 1.000000"
    assert re.search(row, text)
    assert "10% flipped labels: HR training in 2 of 2 runs (1 of them by networks that say little)." in text
    assert re.search(r"\| digits \| 10% \| HR r 0.1 \|.* \| none: flipped > alpha", text)
    assert "- digits, true labels: none up to 1." in text
    assert "- mnist: not there" in text
    assert "![promise](promise.png)" in text


def test_the_command_trains_keeps_and_reports(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("FASTAT_DATA", raising=False)
    command = ["--quick", "--runs", str(tmp_path), "--processes", "1", "--data", "digits", "mnist"]
    assert main(command) == 1
    text = capsys.readouterr().out
    assert "mnist needs a folder" in text
    found = json.loads((tmp_path / "study.json").read_text())
    assert len(found["runs"]) == 8
    assert {len(run["test loss"]) for run in found["runs"]} == {2}
    before = (tmp_path / "study.json").read_text()
    assert main([*command[:-2], "digits"]) == 0
    assert json.loads(before)["runs"] == json.loads((tmp_path / "study.json").read_text())["runs"]
    assert "left" not in capsys.readouterr().out  # nothing was trained

    config = next((tmp_path / "digits").glob("plain-flipped0*/config.json"))
    config.write_text(config.read_text().replace('"eps": 0.15', '"eps": 0.2'))
    assert main([*command[:-2], "digits"]) == 1
    assert "another configuration (eps: 0.2 -> 0.15)" in capsys.readouterr().err
    (tmp_path / "mnist" / "measurements.json").write_text("{}")
    assert main(command) == 1
    assert "measured differently" in capsys.readouterr().err
