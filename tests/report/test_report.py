"""Figures and the table."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastat import data, models
from fastat.evaluation import Evaluation
from fastat.report import results as report
from fastat.report.results import find_examples, format_eps, results_table, write_results
from fastat.report.run_figures import plot_curves
from fastat.training import Network, TrainConfig, default_config, record_of, with_fields

HISTORY = [
    {
        "epoch": epoch,
        "train": {"loss": 1 / epoch, "adversarial": 0.5},
        "val": {"clean": 0.9, "fgsm": 0.6, "pgd-20": 0.5},
        "val_images": 16,
        "seconds": 2.0 * epoch,
    }
    for epoch in (1, 2, 3)
]


def network(config: TrainConfig, title: str = "digits", channels: int = 1) -> Network:
    torch.manual_seed(0)
    model = models.build(config.network.model, 10, channels, 0.3, 0.3).eval()
    return Network(model, record_of(config), title, tuple("0123456789"), HISTORY, 2, "best", Path())


def some_digits() -> data.Dataset:
    return data.load("digits").test.subset(40, 0)


@pytest.mark.parametrize(("eps", "text"), [(8 / 255, "8/255"), (0.1, "0.1"), (0.3, "0.3"), (0.0, "0"), (0.5, "0.5")])
def test_format_eps(eps, text):
    assert format_eps(eps) == text


def test_figures_are_written(tmp_path):
    names = write_results(network(TrainConfig()), some_digits(), tmp_path)["figures"]
    assert [Path(name).name for name in names] == [
        "training_curves.png", "adversarial_examples.png", "accuracy_vs_eps.png",
    ]  # fmt: skip
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.width >= 1100
            assert len(image.convert("L").getcolors()) > 20  # not an empty canvas


def test_names_with_dollars_are_no_formulas(tmp_path):
    trained = replace(network(TrainConfig(), r"a$\b$c"), classes=("$x^$",) * 10)
    assert len(write_results(trained, some_digits(), tmp_path)["figures"]) == 3


def test_titles_say_the_dataset_the_network_and_eps(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(report, "plot_curves", lambda path, history, title, best: titles.append(title))
    monkeypatch.setattr(report, "plot_examples", lambda path, examples, title, span: titles.append(title))
    monkeypatch.setattr(report, "plot_robustness", lambda *arguments: titles.append(arguments[-1]))
    images = torch.randint(0, 256, (12, 3, 32, 32), dtype=torch.uint8)
    test = data.make_dataset("CIFAR-10 (JPEG)", images, torch.arange(12) % 10, tuple("0123456789"))
    config = default_config("cifar10", model="small_cnn")
    write_results(network(config, "CIFAR-10 (JPEG)", 3), test, tmp_path)
    assert len(titles) == 3
    for title in titles:
        assert "CIFAR-10 (JPEG), small CNN" in title
        assert "8/255" in title


def test_titles_and_table_name_the_protocol(tmp_path, monkeypatch):
    titles = []
    monkeypatch.setattr(report, "plot_curves", lambda path, history, title, best: titles.append(title))
    monkeypatch.setattr(report, "plot_examples", lambda path, examples, title, span: titles.append(title))
    monkeypatch.setattr(report, "plot_robustness", lambda *arguments: titles.append(arguments[-1]))
    trained = network(default_config("digits", "hr", attack="n-fgsm", label_noise=0.1))
    results = write_results(trained, some_digits(), tmp_path)
    training = "HR (alpha 0.05, r 0.1) on N-FGSM, 10% of the training labels flipped"
    assert all(training in title for title in titles)
    assert f"40 test images, 3 epochs of {training}, the best of them epoch 2" in results_table(results)


def test_examples_are_what_they_say():
    test = data.load("digits").test
    trained = network(with_fields(TrainConfig(), eps=0.05))
    examples = find_examples(trained, test)
    assert len(examples.true) == len(examples.predicted) == len(examples.images) == len(examples.adversarial)
    difference = examples.adversarial - examples.images
    assert float(difference.abs().max()) <= 0.05 + 1e-6
    with torch.no_grad():
        before = trained.model(examples.images).argmax(1)
        after = trained.model(examples.adversarial).argmax(1)
    assert [str(int(label)) for label in before] == examples.true
    assert [str(int(label)) for label in after] == examples.predicted


def test_a_network_that_gets_nothing_right_still_has_figures(tmp_path):
    test = data.load("digits").test
    wrong = test.take((test.labels == 0).nonzero().flatten())
    trained = network(TrainConfig())
    with torch.no_grad():
        trained.model.model[5].bias[0] -= 1000
    assert find_examples(trained, wrong).true == []
    results = write_results(trained, wrong, tmp_path)
    assert len(results["figures"]) == 3
    assert results["by_class"]["accuracy"]["clean"] == [0.0] + [None] * 9


def test_table_and_results(tmp_path: Path, monkeypatch):
    right = {"clean": 490, "fgsm": 450, "pgd-20": 425, "pgd-50x10": 420}
    correct = {name: torch.arange(500) < count for name, count in right.items()}
    monkeypatch.setattr(report, "evaluate_images", lambda *_, **__: Evaluation("linf", 8 / 255, correct))
    test = data.load("digits").train.subset(500, 0)
    found = write_results(network(TrainConfig()), test, tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == found
    assert (found["seconds"], found["seconds_per_epoch"]) == (12.0, 4.0)
    text = results_table(found)
    assert "digits, small CNN, linf eps 8/255" in text
    assert "500 test images, 3 epochs" in text
    rows = [line.split() for line in text.splitlines()[-4:]]
    assert rows[0][:3] == ["none", "(clean)", "98.0%"]
    assert rows[2] == ["PGD-20", "85.0%", "81.6%", "to", "87.9%"]
    assert rows[3][0] == "PGD-50x10"


def test_curves_without_validation_images(tmp_path):
    history = [{**row, "val": {}, "val_images": 0} for row in HISTORY]
    plot_curves(tmp_path / "curves.png", history, "title")
    assert (tmp_path / "curves.png").exists()
