"""Memorization and influence (Feldman and Zhang 2020), from what networks trained on random subsets got right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastat.support.files.arrays import read_arrays, save_arrays
from fastat.support.keyed import derive_seed

THRESHOLD = 0.15  # Xu et al. 2021: more memorized than this is atypical

Bools = NDArray[np.bool_]
_MATRICES = ("member", "train_correct", "test_correct")
_ROWS_AT_ONCE = 512  # of the influence matrix: its float64 intermediates would be several times its size
_SHUFFLES = 20


@dataclass(frozen=True)
class Outcomes:
    """What each of K networks was trained on, and what it got right afterwards.

    Attributes:
        member: bool [K, N], whether a training sample was in the network's subset.
        train_correct: bool [K, N], whether the network classifies it correctly.
        test_correct: bool [K, M], the same for the test samples.

    Raises:
        ValueError: other types or shapes.
    """

    member: Bools
    train_correct: Bools
    test_correct: Bools

    def __post_init__(self) -> None:
        for name in _MATRICES:
            matrix = getattr(self, name)
            if matrix.dtype != np.bool_ or matrix.ndim != 2 or len(matrix) != len(self.member):
                raise ValueError(f"{name} must be a bool matrix, a row per network, got {matrix.dtype} {matrix.shape}")
        if self.member.shape != self.train_correct.shape:
            raise ValueError(f"member is {self.member.shape}, train_correct is {self.train_correct.shape}")

    def first(self, n_models: int) -> Outcomes:
        """Those of the first networks only."""
        return Outcomes(*(getattr(self, name)[:n_models] for name in _MATRICES))

    def and_then(self, other: Outcomes) -> Outcomes:
        """Those of other networks after these."""
        return Outcomes(*(np.concatenate([getattr(self, name), getattr(other, name)]) for name in _MATRICES))


@dataclass(frozen=True)
class Memorization:
    """Memorization of N training samples, and their influence on M test samples, over K networks.

    mem_i = P[h(x_i) = y_i | i in the subset] - P[h(x_i) = y_i | i not in it]         (Feldman and Zhang 2020, eq. 1)
    infl_ij = P[h(x'_j) = y'_j | i in the subset] - P[h(x'_j) = y'_j | i not in it]   (eq. 2)

    Each probability is the fraction of the networks in question. A training sample that was in every subset, or in
    none, has no such difference: its memorization, error and influences are NaN, and it counts as typical.

    Attributes:
        outcomes: what the networks were trained on and got right, [K, ...].
        memorization: float64 [N] in [-1, 1].
        memorization_error: float64 [N], the standard error of memorization over the draw of the networks: binomial,
            with one success and one failure added to either group (Agresti and Caffo 2000), since the plain formula
            says 0 where all networks agree.
        influence: float32 [N, M] in [-1, 1].
        train_ids: int64 [N], the ids of the training samples (:class:`fastat.data.Dataset`).
        test_ids: int64 [M], those of the test samples.
    """

    outcomes: Outcomes
    memorization: NDArray[np.float64]
    memorization_error: NDArray[np.float64]
    influence: NDArray[np.float32]
    train_ids: NDArray[np.int64]
    test_ids: NDArray[np.int64]

    @property
    def n_models(self) -> int:
        """K, the number of networks."""
        return len(self.outcomes.member)

    @property
    def times_in(self) -> NDArray[np.int64]:
        """int64 [N]: how many networks had the training sample in their subset; the other K - times_in had not."""
        return self.outcomes.member.sum(0)

    @property
    def subset_accuracy(self) -> NDArray[np.float64]:
        """float64 [K]: each network's accuracy on the subset it was trained on."""
        return _mean_where(self.outcomes.train_correct, self.outcomes.member)

    @property
    def held_out_accuracy(self) -> NDArray[np.float64]:
        """float64 [K]: each network's accuracy on the training samples it was not trained on."""
        return _mean_where(self.outcomes.train_correct, ~self.outcomes.member)

    @property
    def test_accuracy(self) -> NDArray[np.float64]:
        """float64 [K]: each network's accuracy on the test samples."""
        return self.outcomes.test_correct.mean(1)

    def atypical_train(self, threshold: float = THRESHOLD) -> Bools:
        """bool [N]: the training samples whose memorization is above the threshold; the others are typical."""
        return self.memorization > threshold

    def atypical_test(self, threshold: float = THRESHOLD) -> Bools:
        """bool [M]: the test samples on which an atypical training sample has an influence above the threshold.

        The definition of Xu et al. 2021, with one threshold for both. It takes the largest of many noisy influences:
        :meth:`by_chance` says how many test samples noise alone puts above the threshold.
        """
        return _largest(self.influence[self.atypical_train(threshold)]) > threshold

    def by_chance(self, threshold: float = THRESHOLD, seed: int = 0) -> tuple[float, float]:
        """How many training and test samples would be atypical if subsets had no effect on what networks get right.

        The subsets are dealt out among the networks anew, at random, 20 times, and the counts averaged: the training
        samples above the threshold, and the test samples above it by an influence from the samples that are atypical
        in truth. Counts near these mean that there are too few networks.
        """
        chosen = self.atypical_train(threshold)
        counts = np.zeros(2)
        for shuffle in range(_SHUFFLES):
            order = np.random.default_rng(derive_seed(seed, shuffle)).permutation(self.n_models)
            member = self.outcomes.member[order]
            counts[0] += (_difference(*_each_hits(member, self.outcomes.train_correct)) > threshold).sum()
            counts[1] += (_largest(_influence(member[:, chosen], self.outcomes.test_correct)) > threshold).sum()
        train, test = counts / _SHUFFLES
        return float(train), float(test)

    def save(self, path: str | Path) -> None:
        """Writes all arrays to an npz file, whole or not at all; the same result gives the same bytes."""
        arrays: dict[str, Any] = {name: getattr(self.outcomes, name) for name in _MATRICES}
        arrays |= {name: getattr(self, name) for name in _SCORES}
        save_arrays(Path(path), arrays, compressed=True)


_SCORES = ("memorization", "memorization_error", "influence", "train_ids", "test_ids")


def load(path: str | Path) -> Memorization:
    """Reads what :meth:`Memorization.save` wrote; only arrays are read, never code.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is another one, or broken.
    """
    arrays = read_all_arrays(Path(path), (*_MATRICES, *_SCORES))
    try:
        outcomes = Outcomes(*(arrays[name] for name in _MATRICES))
        _check_scores(arrays)
    except ValueError as error:
        raise ValueError(f"{path} holds no memorization: {error}") from error
    return Memorization(outcomes, *(arrays[name] for name in _SCORES))


def read_all_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """:func:`fastat.support.files.arrays.read_arrays` of a file that must have them all, or ValueError."""
    arrays = read_arrays(path, names)
    if missing := [name for name in names if name not in arrays]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: delete it to have it made anew")
    return arrays


def _check_scores(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raises ValueError unless the scores are numbers of the shapes that the outcomes say."""
    n, m = arrays["member"].shape[1], arrays["test_correct"].shape[1]
    shapes = {
        "memorization": (n,),
        "memorization_error": (n,),
        "influence": (n, m),
        "train_ids": (n,),
        "test_ids": (m,),
    }
    for name, shape in shapes.items():
        kind = "i" if name.endswith("_ids") else "f"
        if arrays[name].shape != shape or arrays[name].dtype.kind != kind:
            what = "integers" if kind == "i" else "numbers"
            raise ValueError(
                f"{name} must be {what} {list(shape)}, got {arrays[name].dtype} {list(arrays[name].shape)}"
            )


def score(outcomes: Outcomes, train_ids: NDArray[np.int64], test_ids: NDArray[np.int64]) -> Memorization:
    """The estimates of Feldman and Zhang from the networks' outcomes.

    Raises:
        ValueError: fewer than two networks: none could have a sample in its subset beside one that has not.
    """
    if len(outcomes.member) < 2:
        raise ValueError(f"memorization compares networks: needs at least 2, got {len(outcomes.member)}")
    hits_in, n_in, hits_out, n_out = _each_hits(outcomes.member, outcomes.train_correct)
    variance = _smoothed_variance(hits_in, n_in) + _smoothed_variance(hits_out, n_out)
    known = (n_in > 0) & (n_out > 0)
    return Memorization(
        outcomes=outcomes,
        memorization=_difference(hits_in, n_in, hits_out, n_out),
        memorization_error=np.where(known, np.sqrt(variance), np.nan),
        influence=_influence(outcomes.member, outcomes.test_correct),
        train_ids=train_ids,
        test_ids=test_ids,
    )


def _each_hits(member: Bools, correct: Bools) -> tuple[NDArray[Any], ...]:
    """Per sample: correct and all networks with it in the subset, then correct and all networks without it."""
    n_in, hits_in = member.sum(0), (member & correct).sum(0)
    return hits_in, n_in, correct.sum(0) - hits_in, len(member) - n_in


def _difference(
    hits_in: NDArray[Any], n_in: NDArray[Any], hits_out: NDArray[Any], n_out: NDArray[Any]
) -> NDArray[np.float64]:
    """Accuracy with the sample minus accuracy without it; NaN where either has no network."""
    with np.errstate(invalid="ignore"):
        difference: NDArray[np.float64] = hits_in / n_in - hits_out / n_out
    return difference


def _influence(member: Bools, correct: Bools) -> NDArray[np.float32]:
    """Influence of each column of member on each column of correct."""
    influence = np.empty((member.shape[1], correct.shape[1]), np.float32)
    all_hits = correct.sum(0)
    counted = correct.astype(np.float32)  # float32 counts exactly to 2^24, and has a fast product
    for start in range(0, len(influence), _ROWS_AT_ONCE):
        part = member[:, start : start + _ROWS_AT_ONCE]
        n_in = part.sum(0)[:, None]
        hits_in = (part.T.astype(np.float32) @ counted).astype(np.float64)
        influence[start : start + _ROWS_AT_ONCE] = _difference(hits_in, n_in, all_hits - hits_in, len(member) - n_in)
    return influence


def _largest(influence: NDArray[np.float32]) -> NDArray[np.float32]:
    """The largest influence on each test sample, -1 if there is no training sample to have one."""
    return influence.max(axis=0, initial=-1.0)


def _smoothed_variance(hits: NDArray[Any], n: NDArray[Any]) -> NDArray[np.float64]:
    p = (hits + 1) / (n + 2)
    variance: NDArray[np.float64] = p * (1 - p) / (n + 2)
    return variance


def _mean_where(values: Bools, where: Bools) -> NDArray[np.float64]:
    """The mean of each row over the entries chosen in it."""
    mean: NDArray[np.float64] = (values & where).sum(1) / where.sum(1)
    return mean
