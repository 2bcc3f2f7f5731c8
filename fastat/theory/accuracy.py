"""How networks are evaluated on the images of a dataset."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from fastat.data import Dataset
from fastat.evaluation import Evaluation, evaluate
from fastat.support.threat import Bounds, Norm


def evaluate_images(
    model: nn.Module,
    images: Dataset,
    eps: float,
    norm: Norm = "linf",
    *,
    attacks: Sequence[str],
    bounds: Bounds = (0.0, 1.0),
    seed: int,
) -> Evaluation:
    """:func:`fastat.evaluation.evaluate` on a dataset that lies where the model does.

    Random starts are keyed by the images' ids: an image meets the same attack in whatever part of a dataset.
    """
    x, y = images.pixels(), images.labels
    return evaluate(model, x, y, eps, norm, attacks=attacks, bounds=bounds, seed=seed, sample_ids=images.ids)
