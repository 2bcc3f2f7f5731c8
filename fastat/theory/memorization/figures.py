"""What memorization looks like: the scores, the images, and the accuracies of typical and atypical ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fastat.data import Dataset
from fastat.evaluation import wilson_interval
from fastat.figures import BLUE, DPI, GREY, RED, label_axes, show_image
from fastat.theory.memorization.groups import ATTACK
from fastat.theory.memorization.scores import THRESHOLD, Memorization

_COLORS = {"typical": BLUE, "atypical": RED}
_KINDS = (("clean", "-", "o"), (ATTACK, "--", "s"))
_BIN = 0.05
_CLASSES, _PER_CLASS = 10, 3


def plot_scores(path: Path, memorization: Memorization, title: str, threshold: float = THRESHOLD) -> None:
    """Histogram of the memorization of the training samples, on a logarithmic scale, with the threshold marked."""
    scores = memorization.memorization[~np.isnan(memorization.memorization)]
    above = scores > threshold
    first = min(0, int(np.floor(scores.min() / _BIN)))
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.hist(
        [scores[~above], scores[above]],
        bins=[edge * _BIN for edge in range(first, round(1 / _BIN) + 1)],
        stacked=True,
        color=[BLUE, RED],
        label=[f"typical: {(~above).sum():,}", f"atypical: {above.sum():,} ({above.mean():.1%})"],
        edgecolor="white",
    )
    axes.axvline(threshold, color=GREY, linestyle="--", linewidth=1.5, label=f"threshold {threshold:g}")
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.7)
    axes.set_axisbelow(True)
    label_axes(axes, "memorization: accuracy with the sample in the subset minus without it", "training samples")
    axes.legend(loc="upper right", fontsize=11)
    axes.set_title(title, fontsize=13)
    figure.savefig(path, dpi=DPI)


def plot_examples(
    path: Path, train: Dataset, memorization: Memorization, title: str, threshold: float = THRESHOLD
) -> None:
    """The three most and the three least memorized images of each class, the first ten classes, with their scores.

    Least memorized are the images whose score is nearest to zero (below zero it is noise), the first ones of many.
    """
    classes = train.classes[:_CLASSES]
    figure = Figure(figsize=(1.15 * max(len(classes), 5) + 0.8, 2.5 * _PER_CLASS + 1.6), layout="constrained")
    figure.suptitle(f"{title}\nabove each image its memorization, in colour if above {threshold:g}", fontsize=14)
    layout = GridSpec(2, 1, figure, height_ratios=(_PER_CLASS + 0.3, _PER_CLASS))  # the class names are above the first
    halves = [figure.add_subfigure(layout[half]) for half in range(2)]
    grids = [half.subplots(_PER_CLASS, len(classes), squeeze=False) for half in halves]
    for half, name in zip(halves, ("most memorized", "least memorized"), strict=True):
        half.supylabel(name, fontsize=13)
    for column, name in enumerate(classes):
        chosen = _most_and_least(memorization.memorization, (train.labels == column).cpu().numpy())
        for grid, positions in zip(grids, chosen, strict=True):
            for row in range(_PER_CLASS):
                position = positions[row] if row < len(positions) else None
                _show_score(grid[row, column], train, memorization, position, threshold)
        top = grids[0][0, column]
        top.annotate(name, (0.5, 1.32), xycoords="axes fraction", ha="center", fontsize=14, fontweight="bold")
    figure.savefig(path, dpi=DPI)


def plot_group_curves(path: Path, history: Sequence[Mapping[str, Any]], sizes: Mapping[str, int], title: str) -> None:
    """Clean and robust accuracy of typical and atypical test samples by epoch, with a 95% interval at the last one.

    Args:
        path: the picture.
        history: lines of metrics.jsonl of a run measured by :func:`group_measure`; at least one.
        sizes: the number of samples in the groups "typical" and "atypical"; an empty one has no curves.
        title: above the picture.
    """
    figure = Figure(figsize=(8, 5.8), layout="constrained")
    axes = figure.subplots()
    epochs = [row["epoch"] for row in history]
    place = epochs[-1]
    for group, size in sizes.items():
        if size == 0:
            continue
        for kind, line, marker in _KINDS:
            values = [row["measured"][f"{group} {kind}"] for row in history]
            style: dict[str, Any] = {"color": _COLORS[group], "marker": marker, "linewidth": 2, "markersize": 4}
            shown = f"{group} ({size}), {kind.replace('pgd', 'PGD')}"
            axes.plot(epochs, values, linestyle=line, label=shown, **style)
            place += 0.025 * max(len(epochs), 5)  # the intervals stand beside each other, to the right of the curves
            low, high = wilson_interval(values[-1], size)
            reach = [[max(values[-1] - low, 0.0)], [max(high - values[-1], 0.0)]]  # at 100% rounding makes it -1e-16
            axes.errorbar(place, values[-1], reach, capsize=4, **style)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    ticks = MaxNLocator(integer=True).tick_values(1, epochs[-1])
    axes.set_xticks([tick for tick in ticks if 1 <= tick <= epochs[-1]])  # none where only the intervals stand
    label_axes(axes, "epoch; to the right: the last one with 95% intervals", "accuracy on test samples")
    figure.legend(loc="outside lower center", fontsize=11, ncols=2)
    axes.set_title(title, fontsize=13)
    figure.savefig(path, dpi=DPI)


def _most_and_least(scores: NDArray[np.float64], members: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Positions of the most memorized images among the members, and of the least memorized of the others."""
    known = np.flatnonzero(members & ~np.isnan(scores))
    most = known[np.argsort(-scores[known], kind="stable")][:_PER_CLASS]
    rest = known[~np.isin(known, most)]
    least = rest[np.argsort(abs(scores[rest]), kind="stable")][:_PER_CLASS]
    return most.tolist(), least.tolist()


def _show_score(axes: Axes, train: Dataset, memorization: Memorization, position: int | None, threshold: float) -> None:
    if position is None:
        axes.set_axis_off()
        return
    show_image(axes, train.pixels(train.images[position]).cpu())
    score = memorization.memorization[position]
    atypical = score > threshold
    axes.set_title(
        f"{score:z.2f}",
        fontsize=11,
        pad=3,
        color=RED if atypical else GREY,
        fontweight="bold" if atypical else "normal",
    )
