"""Runs that are made longer: where the past stays as it was they go on, elsewhere the message says why not."""

import json

import pytest
from killing import assert_same_run, metrics
from own_cases import PROTOCOL, SHORT, network, samples

import fastat
from fastat.cli import main
from fastat.training import load_network


def trained(folder, **changes):
    return fastat.train(network(), samples(), PROTOCOL, out=folder, **{**SHORT, "schedule": "constant", **changes})


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"epochs": 2}, {"epochs": 4}),
        ({"epochs": 2, "optimizer": "adam"}, {"epochs": 3, "optimizer": "adam"}),
        (
            {"epochs": 2, "schedule": "multistep", "milestones": (0.5,)},
            {"epochs": 4, "schedule": "multistep", "milestones": (0.25, 0.75)},
        ),
        (
            {"epochs": 4, "average": "swa", "swa_start": 0.25},
            {"epochs": 5, "average": "swa", "swa_start": 0.2},
        ),
    ],
)
def test_a_longer_run_goes_on(short, long, tmp_path):
    assert trained(tmp_path / "longer", **short).finished
    found = trained(tmp_path / "longer", **long)
    trained(tmp_path / "whole", **long)
    assert_same_run(tmp_path / "longer", tmp_path / "whole")
    assert len(found.history) == long["epochs"]
    assert json.loads((tmp_path / "longer" / "config.json").read_text())["epochs"] == long["epochs"]


@pytest.mark.parametrize(
    ("short", "long", "said"),
    [
        (
            {"schedule": "cyclic"},
            {"epochs": 4},
            r"epochs: 2 -> 4\), at which its first 6 steps would have had other learning rates, by the schedule cyclic",
        ),
        (
            {"schedule": "cosine"},
            {"epochs": 4},
            "only a constant schedule, or multistep with its milestones at the same",
        ),
        ({"schedule": "multistep"}, {"epochs": 4}, "by the schedule multistep: only a constant"),
        ({}, {"epochs": 1}, "holds this run with 2 epochs done already: epochs must be at least that"),
        (
            {"average": "swa", "swa_start": 0.0},
            {"epochs": 3, "swa_start": 0.5},
            "another average: swa_start must be at the same epoch",
        ),
    ],
)
def test_another_past_is_refused(short, long, said, tmp_path):
    trained(tmp_path, **short)
    before = metrics(tmp_path), (tmp_path / "config.json").read_text()
    with pytest.raises(ValueError, match=said):
        trained(tmp_path, **{**short, **long})
    assert (metrics(tmp_path), (tmp_path / "config.json").read_text()) == before


def test_an_own_schedule_goes_on_where_its_past_is_the_same(tmp_path):
    def falls(progress):
        return 1 - progress

    def stays(progress):
        return 0.5

    trained(tmp_path / "falls", schedule=falls)
    with pytest.raises(ValueError, match=r"by the schedule test_extending.*falls [0-9a-f]{8} [0-9a-f]{12}: only"):
        trained(tmp_path / "falls", schedule=falls, epochs=3)
    trained(tmp_path / "stays", schedule=stays)
    assert len(trained(tmp_path / "stays", schedule=stays, epochs=3).history) == 3


def test_the_command_line_goes_on_and_measures_again(tmp_path, capsys):
    out = tmp_path / "run"
    flags = ["train", "--attack-steps", "1", "--train-size", "96", "--batch-size", "32", "--val-size", "10"]
    flags += ["--schedule", "constant", "--model", "mlp", "--width", "8", "--out", str(out)]
    main([*flags, "--epochs", "1", "--eval-size", "20"])
    main([*flags, "--epochs", "1", "--eval-size", "30"])  # only measures
    assert "30 test images, 1 epochs" in capsys.readouterr().out
    assert json.loads((out / "results.json").read_text())["test_images"] == 30
    main([*flags, "--epochs", "2", "--eval-size", "30"])
    said = capsys.readouterr().out
    assert "continues after 3 of 6 steps" in said and "30 test images, 2 epochs" in said
    assert len(load_network(out, "cpu").history) == 2
    main([*flags, "--epochs", "2", "--eval-size", "30"])
    assert "holds this run, finished" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="with 2 epochs done already"):
        main([*flags, "--epochs", "1", "--eval-size", "30"])
