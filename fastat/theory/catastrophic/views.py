"""The same images with and without the injected feature, to see which part of them a network relies on."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from fastat.data import Dataset, Split
from fastat.evaluation import eval_mode, predict
from fastat.theory.catastrophic.carriers import carriers, carriers_alone, inject, inject_projected, remove

Injection = Literal["plain", "projected"]
INJECTIONS = ("plain", "projected")
PARTS = ("injected", "original", "removed", "alone", "reversed")
"""x~, x, x~ - P_V x~, beta V_y, and x~ with -beta in place of beta."""

_AT_ONCE = 500


def injected_split(split: Split, beta: float, injection: Injection = "plain") -> Split:
    """Training and test images with the patterns of their labels: float32, not clipped to [0, 1].

    Args:
        split: images in memory, or such that fit there.
        beta: amplitude of :func:`fastat.theory.catastrophic.carriers.carriers`, in the unit of the pixels.
        injection: "plain", x + beta V_y, or "projected", x - P_V x + beta V_y.

    Raises:
        ValueError: an unknown injection, or images too small for the number of classes.
    """
    return Split(
        injected_dataset(split.train.load(), beta, injection), injected_dataset(split.test.load(), beta, injection)
    )


def injected_dataset(dataset: Dataset, beta: float, injection: Injection = "plain") -> Dataset:
    """One half of :func:`injected_split`."""
    if injection not in INJECTIONS:
        raise ValueError(f"injection must be one of {', '.join(INJECTIONS)}, got {injection!r}")
    patterns = carriers(len(dataset.classes), dataset.image_shape).to(dataset.images.device)
    add = inject if injection == "plain" else inject_projected
    images = add(dataset.pixels(), dataset.labels, patterns, beta)
    return replace(dataset, images=images, scale=1)


def views(dataset: Dataset, beta: float, injection: Injection = "plain") -> dict[str, Tensor]:
    """Images [N, C, H, W] by the names in PARTS, of a dataset that has not been injected."""
    patterns = carriers(len(dataset.classes), dataset.image_shape).to(dataset.images.device)
    x = dataset.pixels()
    return {
        "injected": injected_dataset(dataset, beta, injection).images,
        "original": x,
        "removed": remove(x, patterns),
        "alone": carriers_alone(dataset.labels, patterns, beta),
        "reversed": injected_dataset(dataset, -beta, injection).images,
    }


@torch.no_grad()
def view_accuracies(model: nn.Module, images: dict[str, Tensor], labels: Tensor) -> dict[str, float]:
    """The accuracy on each view, in eval mode, for the labels int64 [N] that all of them share."""
    found = {}
    with eval_mode(model):
        for name, x in images.items():
            hits = torch.stack([(predict(model, part) == y).sum() for part, y in _parts(x, labels)])
            found[name] = int(hits.sum()) / len(labels)
    return found


def _parts(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(x.split(_AT_ONCE), y.split(_AT_ONCE), strict=True))
