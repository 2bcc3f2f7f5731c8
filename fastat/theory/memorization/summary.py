"""What the trainings on one dataset gave, as numbers of the result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fastat.theory.memorization.cells import KINDS, Cell, right
from fastat.theory.memorization.comparison import Difference, paired_difference
from fastat.theory.memorization.removal import Atypical

FULL: Literal["pgd-at"] = "pgd-at"
BENIGN = "bat"
GROUPS = ("typical train", "atypical train", "typical test", "atypical test", "all test")
LOSS_UNDER_ATTACK = "clean minus pgd-10"

_COMPARED = ("typical test", "atypical test", "all test")


@dataclass(frozen=True)
class Training:
    """Trainings of one kind, which differ in the seed.

    Attributes:
        eps: radius of the training and of the attack.
        condition: "pgd-at" on all samples, "score 0.5" and "random 0.5" without some, or another protocol on all.
        accuracy: by group and kind, "atypical test clean" for example, of each seed; an empty group has none.
    """

    eps: float
    condition: str
    accuracy: dict[str, list[float]]


@dataclass(frozen=True)
class Contrast:
    """How much better the trainings of one condition are than those of another, on one group of test samples."""

    eps: float
    first: str
    second: str
    group: str
    kind: str
    difference: Difference


@dataclass(frozen=True)
class Curve:
    """Accuracies of PGD-AT on all samples by epoch: by group and kind, a list over the epochs for each seed."""

    eps: float
    epochs: list[int]
    accuracy: dict[str, list[list[float]]]


@dataclass(frozen=True)
class Bed:
    """One dataset: its samples, the networks that memorization was estimated with, and what was trained.

    Attributes:
        data: the dataset's name.
        title: what figures call it.
        samples: number of samples in each of ``GROUPS``.
        by_chance: atypical training and test samples that noise alone would make.
        ensemble: mean accuracy of the networks on their subset, on other training samples, on test samples.
        histogram: "edges", and counts "typical" and "atypical" of the training samples between them.
        gallery: the most and the least memorized images (:mod:`fastat.theory.memorization.gallery`).
        trainings: by eps, then by condition.
        contrasts: differences between conditions.
        curves: one for each eps.
    """

    data: str
    title: str
    samples: dict[str, int]
    by_chance: list[float]
    ensemble: dict[str, float]
    histogram: dict[str, list[float]]
    gallery: dict[str, Any]
    trainings: list[Training]
    contrasts: list[Contrast]
    curves: list[Curve]

    @property
    def eps(self) -> list[float]:
        """The radii, in the order of the settings."""
        return list(dict.fromkeys(training.eps for training in self.trainings))

    def accuracy(self, eps: float, condition: str) -> dict[str, list[float]]:
        """Those of the trainings of this condition."""
        return next(t.accuracy for t in self.trainings if (t.eps, t.condition) == (eps, condition))

    def contrast(self, eps: float, first: str, second: str, group: str, kind: str) -> Difference:
        """The difference first minus second."""
        key = (eps, first, second, group, kind)
        return next(c.difference for c in self.contrasts if (c.eps, c.first, c.second, c.group, c.kind) == key)


def condition(cell: Cell, fractions: Mapping[int, float]) -> str:
    """The name of what was trained, given the fractions of the atypical samples by their counts."""
    if cell.removed == 0:
        return cell.config.method.protocol
    return f"{'random' if cell.at_random else 'score'} {fractions[cell.removed]:g}"


def members(atypical: Atypical, train: int, test: int) -> dict[str, NDArray[np.bool_]]:
    """Which samples of their half are in each group, bool [train] or [test], given the sizes of the halves."""
    found: dict[str, NDArray[np.bool_]] = {}
    for half, positions, n in (("train", atypical.train, train), ("test", atypical.test, test)):
        chosen = np.zeros(n, np.bool_)
        chosen[list(positions)] = True
        found |= {f"typical {half}": ~chosen, f"atypical {half}": chosen}
    return found | {"all test": np.ones(test, np.bool_)}


def trainings_of(
    cells: Sequence[Cell],
    results: Sequence[Mapping[str, Any]],
    fractions: Mapping[int, float],
    groups: Mapping[str, NDArray[np.bool_]],
) -> tuple[list[Training], list[Contrast]]:
    """Accuracies and differences of the cells of one dataset."""
    trainings, contrasts = [], []
    for eps in dict.fromkeys(cell.config.threat.eps for cell in cells):
        outcomes: dict[str, list[Mapping[str, Any]]] = {}
        for cell, result in zip(cells, results, strict=True):
            if cell.config.threat.eps == eps:
                outcomes.setdefault(condition(cell, fractions), []).append(result)
        trainings += [Training(eps, name, _accuracies(found, groups)) for name, found in outcomes.items()]
        whole = [cell.config for cell in cells if cell.config.threat.eps == eps and cell.removed == 0]
        protocols = [config.method.protocol for config in whole]
        pairs = _pairs(list(fractions.values()), [name for name in dict.fromkeys(protocols) if name != FULL])
        test = {name: _by_kind(found) for name, found in outcomes.items()}
        for first, second in pairs:
            contrasts += list(_contrasts(eps, first, second, test, groups))
    return trainings, contrasts


def curves_of(cells: Sequence[Cell], results: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The curves by epoch of the cells that were measured by epoch."""
    curves = []
    for eps in dict.fromkeys(cell.config.threat.eps for cell in cells):
        some = [
            result["curve"] for cell, result in zip(cells, results, strict=True) if cell.config.threat.eps == eps
            and result["curve"]
        ]  # fmt: skip
        names = [name for name in some[0][0] if name != "epoch"]
        accuracy = {name: [[row[name] for row in curve] for curve in some] for name in names}
        curves.append(Curve(eps, [row["epoch"] for row in some[0]], accuracy))
    return curves


def _pairs(fractions: Sequence[float], protocols: Sequence[str]) -> list[tuple[str, str]]:
    pairs = []
    for fraction in fractions:
        score, random = f"score {fraction:g}", f"random {fraction:g}"
        pairs += [(FULL, score), (FULL, random), (random, score)]
    pairs += [(protocol, FULL) for protocol in protocols]
    if BENIGN in protocols:
        pairs += [(BENIGN, protocol) for protocol in protocols if protocol != BENIGN]
    return pairs


def _accuracies(
    outcomes: Sequence[Mapping[str, Any]], groups: Mapping[str, NDArray[np.bool_]]
) -> dict[str, list[float]]:
    return {
        f"{group} {kind}": [float(right(one[group.split()[1]][kind])[inside].mean()) for one in outcomes]
        for group, inside in groups.items()
        if inside.any()
        for kind in KINDS
    }


def _by_kind(outcomes: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Which test samples are right, [seeds, samples], by kind."""
    found = {kind: np.stack([right(one["test"][kind]) for one in outcomes]).astype(np.float64) for kind in KINDS}
    return found | {LOSS_UNDER_ATTACK: found[KINDS[0]] - found[KINDS[1]]}


def _contrasts(
    eps: float,
    first: str,
    second: str,
    test: Mapping[str, Mapping[str, NDArray[np.float64]]],
    groups: Mapping[str, NDArray[np.bool_]],
) -> Iterator[Contrast]:
    for group in _COMPARED:
        if groups[group].sum() < 2:
            continue
        for kind, values in test[first].items():
            difference = paired_difference((values - test[second][kind])[:, groups[group]])
            yield Contrast(eps, first, second, group, kind, difference)
