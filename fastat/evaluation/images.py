"""Accuracy on the images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from fastat.data import AnyDataset, Dataset, Mapped, Streamed
from fastat.evaluation.accuracy import ATTACKS, evaluate
from fastat.evaluation.result import Evaluation
from fastat.graphs import Graph
from fastat.support.threat import ThreatModel

_ON_CPU = 500  # PGD-50x10 on all of a test set would take longer on a CPU than the training
_OF_FILES = 5000  # as robustness benchmarks take of ImageNet; all would fill the memory


def some_of(images: AnyDataset, size: int | None, seed: int, device: torch.device) -> Dataset:
    """A random choice of ``size`` images in the device's memory; for None 500 on a CPU, else 5000 of those that
    are read as they are needed, or all."""
    if size is None and device.type == "cpu":
        size = _ON_CPU
    elif size is None and isinstance(images, Streamed | Mapped):
        size = _OF_FILES
    return images.subset(size, seed).load().to(device)


def evaluate_images(
    model: nn.Module,
    images: Dataset,
    threat: ThreatModel,
    *,
    attacks: Sequence[str] = ATTACKS,
    seed: int = 0,
    graph: Graph = "auto",
) -> Evaluation:
    """:func:`fastat.evaluation.evaluate` on a dataset that lies where the model does.

    Random starts are keyed by the images' ids: an image meets the same attack in whatever part of a dataset.
    """
    x, y = images.pixels(), images.labels
    return evaluate(
        model, (x, y), threat.eps, threat.norm, attacks=attacks, bounds=threat.bounds, seed=seed, sample_ids=images.ids,
        progress=False, graph=graph,
    )  # fmt: skip
