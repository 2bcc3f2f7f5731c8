"""Wrong labels on purpose: what training is given, and how robust it is to that."""

from __future__ import annotations

from dataclasses import replace

from fastat.data.mapped import Mapped
from fastat.data.splits import AnyDataset
from fastat.support.keyed import keyed_hash

_CHOICE, _CLASS = 0xF11B, 0xC1A55  # purposes in the keys


def flip_labels(dataset: AnyDataset, fraction: float, seed: int) -> AnyDataset:
    """The dataset with ``round(fraction * N)`` of its labels replaced, each by one of the other classes, uniformly.

    Which samples these are and what they become depends on the seed and the samples' ids: not on their order.

    Raises:
        ValueError: a fraction outside [0, 1], only one class, or labels that are not in memory.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"a fraction of labels must be in [0, 1], got {fraction}")
    flipped = round(fraction * len(dataset))
    if flipped == 0:
        return dataset
    if isinstance(dataset, Mapped):
        raise ValueError(f"labels of {dataset.title} cannot be flipped: it is read as it is needed")
    others = len(dataset.classes) - 1
    if others == 0:
        raise ValueError(f"labels of {dataset.title} cannot be flipped: it has one class")
    chosen = keyed_hash(dataset.ids, seed, _CHOICE).argsort()[:flipped]
    shift = 1 + keyed_hash(dataset.ids[chosen], seed, _CLASS) % others
    labels = dataset.labels.clone()
    labels[chosen] = (labels[chosen] + shift) % len(dataset.classes)
    return replace(dataset, labels=labels)
