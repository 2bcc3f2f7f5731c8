"""Which training samples are left when atypical ones, or as many random ones, are removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fastat.support.keyed import keyed_permutation
from fastat.theory.digest import json_digest
from fastat.theory.memorization.scores import THRESHOLD, Memorization

_REMOVED = 0x2E30  # the purpose in the key of what is removed at random


@dataclass(frozen=True)
class Atypical:
    """The atypical samples of a split, by their positions in its halves.

    Attributes:
        train: the atypical training samples, the most memorized one first.
        test: the atypical test samples, rising.
    """

    train: tuple[int, ...]
    test: tuple[int, ...]

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that stand for these samples."""
        return json_digest([self.train, self.test], 12)


def atypical_samples(memorization: Memorization, threshold: float = THRESHOLD) -> Atypical:
    """The samples that :class:`Memorization` counts as atypical."""
    scores = memorization.memorization
    chosen = np.flatnonzero(memorization.atypical_train(threshold))
    ranked = chosen[np.argsort(-scores[chosen], kind="stable")]
    return Atypical(tuple(ranked.tolist()), tuple(np.flatnonzero(memorization.atypical_test(threshold)).tolist()))


def kept_positions(n: int, atypical: Atypical, removed: int, *, at_random: bool, seed: int) -> Tensor:
    """The training samples that are left, int64 [n - removed], rising.

    Args:
        n: number of training samples.
        atypical: which of them are atypical.
        removed: how many are removed.
        at_random: remove a random choice of all samples in place of the most memorized ones.
        seed: of that choice.

    Raises:
        ValueError: removed is below 0, leaves nothing, or there are not so many atypical samples.
    """
    if not 0 <= removed < n or (not at_random and removed > len(atypical.train)):
        raise ValueError(
            f"removed must be at least 0, below the {n} training samples and, by score, at most the "
            f"{len(atypical.train)} atypical ones; got {removed}"
        )
    gone = keyed_permutation(n, seed, _REMOVED)[:removed] if at_random else torch.tensor(atypical.train[:removed])
    kept = torch.ones(n, dtype=torch.bool)
    kept[gone.long()] = False
    return kept.nonzero().flatten()


def removed_counts(fractions: tuple[float, ...], atypical: int) -> dict[float, int]:
    """How many samples each fraction of the atypical ones is, at least one.

    Raises:
        ValueError: two fractions are the same number of samples; the message says of how many.
    """
    counts = {fraction: max(1, round(fraction * atypical)) for fraction in fractions}
    if atypical < 1 or len(set(counts.values())) < len(counts):
        raise ValueError(
            f"removed must be fractions of the atypical training samples that differ by a sample at least, got "
            f"{fractions} of {atypical}: more networks or fewer training images may find more"
        )
    return counts
