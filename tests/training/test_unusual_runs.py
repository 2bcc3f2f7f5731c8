"""What a run writes it reads again: of a training that diverged, and of a network of a few numbers."""

import json
import math

import pytest
import torch
from own_cases import PROTOCOL, SHORT, network, samples
from torch import nn

import fastat
from fastat.report import write_page
from fastat.report.page_figures import curves
from fastat.report.run_figures import plot_curves
from fastat.training import load_network
from fastat.training.saved import history_in


class Interrupted(Exception):
    pass


def interrupt(row: dict) -> None:
    raise Interrupted


def test_a_run_whose_loss_is_infinite_goes_on_is_measured_and_shown(tmp_path):
    protocol = fastat.protocol("pgd-at", eps=0.1, steps=2, objective=lambda losses: 0 * losses.mean() + math.inf)
    values = {**SHORT, "out": tmp_path / "run"}
    with pytest.raises(Interrupted):
        fastat.train(network(), samples(), protocol, **values, on_epoch=interrupt)
    trained = fastat.train(network(), samples(), protocol, **values)
    assert [row["epoch"] for row in trained.history] == [1, 2]
    loaded = load_network(tmp_path / "run", "cpu", model=network())
    assert [row["train"]["loss"] for row in loaded.history] == [math.inf, math.inf]
    loaded.report(samples(), size=8, quiet=True)
    assert "<svg" in write_page([tmp_path / "run"], tmp_path / "page.html").read_text()


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e308, -1e308, -1.0])
def test_any_loss_and_rate_are_read_and_drawn(tmp_path, value):
    row = {
        "epoch": 1, "lr": value, "train": {"loss": value, "adversarial": 0.5}, "val": {}, "val_images": 0,
        "seconds": 1.0, "findings": [], "stopped": "",
    }  # fmt: skip
    rows = [row, {**row, "epoch": 2, "train": {"loss": 1.0, "adversarial": 0.5}}]
    read = history_in("\n".join(json.dumps(row) for row in rows).encode(), "metrics.jsonl")
    for history in (read, read[:1]):
        plot_curves(tmp_path / "curves.png", history, "title")
        assert "<svg" in curves([(0, "a", history)])


def pooled() -> nn.Module:
    """Of four numbers, for images of 784."""
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))


def test_a_network_may_have_fewer_numbers_than_a_sample(tmp_path):
    x = torch.rand(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    given = (x, (x.mean((1, 2, 3)) > x.mean()).long())
    values = {**SHORT, "val": 16, "out": tmp_path / "run", "patience": None}
    trained = fastat.train(pooled(), given, PROTOCOL, **values)
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert fastat.train(pooled(), given, PROTOCOL, **values).history == trained.history
    assert load_network(tmp_path / "run", "cpu", model=pooled()).epoch == trained.epoch
