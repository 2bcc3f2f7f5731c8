"""The most and the least memorized images, small enough to be kept beside the numbers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastat.data import Dataset, make_dataset

CLASSES, PER_CLASS = 10, 3


def gallery(train: Dataset, scores: NDArray[np.float64]) -> dict[str, Any]:
    """The three most and the three least memorized images of each of the first ten classes, as JSON values.

    Least memorized are the images whose score is nearest to zero (below zero it is noise), the first ones of many.

    Args:
        train: the training samples; pixels beyond [0, 1] are clipped.
        scores: their memorization, [N]; samples without a score (NaN) are left out.
    """
    chosen: list[int] = []
    for label in range(min(CLASSES, len(train.classes))):
        most, least = most_and_least(scores, (train.labels == label).cpu().numpy())
        chosen += most + least
    some = train.take(torch.tensor(chosen))
    pixels = (some.pixels().clamp(0, 1) * 255).round().to(torch.uint8).cpu()
    return {
        "classes": list(train.classes[:CLASSES]),
        "labels": some.labels.tolist(),
        "scores": scores[chosen].tolist(),
        "shape": list(pixels.shape),
        "pixels": base64.b64encode(pixels.numpy().tobytes()).decode(),
    }


def images_of(kept: Mapping[str, Any]) -> tuple[Dataset, NDArray[np.float64]]:
    """The images that :func:`gallery` kept, and their scores."""
    stored = np.frombuffer(base64.b64decode(kept["pixels"]), np.uint8).reshape(kept["shape"])
    dataset = make_dataset(
        "gallery", torch.from_numpy(stored.copy()), torch.tensor(kept["labels"]), tuple(kept["classes"])
    )
    return dataset, np.array(kept["scores"])


def most_and_least(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Positions of the most memorized images among the members, and of the least memorized of the others."""
    known = np.flatnonzero(members & ~np.isnan(scores))
    most = known[np.argsort(-scores[known], kind="stable")][:PER_CLASS]
    rest = known[~np.isin(known, most)]
    least = rest[np.argsort(abs(scores[rest]), kind="stable")][:PER_CLASS]
    return most.tolist(), least.tolist()
