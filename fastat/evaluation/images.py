"""Accuracy on the images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastat.data import Dataset
from fastat.evaluation.accuracy import ATTACKS, Evaluation, evaluate
from fastat.graphs import Graph
from fastat.support.threat import ThreatModel


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
        model, x, y, threat.eps, threat.norm, attacks=attacks, bounds=threat.bounds, seed=seed, sample_ids=images.ids,
        graph=graph,
    )  # fmt: skip
