"""What memorization looks like: the scores, and the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from numpy.typing import NDArray

from fastat.data import Dataset
from fastat.report import BLUE, DPI, GREY, RED, label_axes, show_image
from fastat.theory.memorization.gallery import PER_CLASS, most_and_least
from fastat.theory.memorization.scores import THRESHOLD, Memorization

_BIN = 0.05


def histogram(memorization: Memorization, threshold: float = THRESHOLD) -> dict[str, list[float]]:
    """Counts of typical and atypical training samples by their memorization: "edges", "typical", "atypical"."""
    scores = memorization.memorization[~np.isnan(memorization.memorization)]
    first = min(0, int(np.floor(scores.min() / _BIN)))
    edges = [edge * _BIN for edge in range(first, round(1 / _BIN) + 1)]
    halves = {"typical": scores[scores <= threshold], "atypical": scores[scores > threshold]}
    return {"edges": edges, **{name: np.histogram(part, edges)[0].tolist() for name, part in halves.items()}}


def plot_scores(path: Path, counts: Mapping[str, Sequence[float]], title: str, threshold: float = THRESHOLD) -> None:
    """What :func:`histogram` counted, on a logarithmic scale, with the threshold marked."""
    edges, typical, atypical = (np.array(counts[name]) for name in ("edges", "typical", "atypical"))
    n = {"typical": typical.sum(), "atypical": atypical.sum()}
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    axes.hist(
        [edges[:-1], edges[:-1]],
        bins=edges.tolist(),
        weights=[typical, atypical],
        stacked=True,
        color=[BLUE, RED],
        label=[f"{name}: {n[name]:,} ({n[name] / sum(n.values()):.1%})" for name in n],
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
    path: Path, train: Dataset, scores: NDArray[np.float64], title: str, threshold: float = THRESHOLD
) -> None:
    """The three most and the three least memorized images of each class, with their scores.

    Least memorized are the images whose score is nearest to zero (below zero it is noise), the first ones of many.
    """
    classes = train.classes
    figure = Figure(figsize=(1.15 * max(len(classes), 5) + 0.8, 2.5 * PER_CLASS + 1.6), layout="constrained")
    figure.suptitle(f"{title}\nabove each image its memorization, in colour if above {threshold:g}", fontsize=14)
    layout = GridSpec(2, 1, figure, height_ratios=(PER_CLASS + 0.3, PER_CLASS))  # the class names are above the first
    halves = [figure.add_subfigure(layout[half]) for half in range(2)]
    grids = [half.subplots(PER_CLASS, len(classes), squeeze=False) for half in halves]
    for half, name in zip(halves, ("most memorized", "least memorized"), strict=True):
        half.supylabel(name, fontsize=13)
    for column, name in enumerate(classes):
        chosen = most_and_least(scores, (train.labels == column).cpu().numpy())
        for grid, positions in zip(grids, chosen, strict=True):
            for row in range(PER_CLASS):
                position = positions[row] if row < len(positions) else None
                _show_score(grid[row, column], train, scores, position, threshold)
        top = grids[0][0, column]
        top.annotate(
            _short(name), (0.5, 1.32), xycoords="axes fraction", ha="center", fontsize=14, fontweight="bold",
            parse_math=False,
        )  # fmt: skip
    figure.savefig(path, dpi=DPI)


def _short(name: str) -> str:
    """Class names of many words would run into each other."""
    return name if len(name) <= 10 else name[:9] + "…"


def _show_score(
    axes: Axes, train: Dataset, scores: NDArray[np.float64], position: int | None, threshold: float
) -> None:
    if position is None:
        axes.set_axis_off()
        return
    show_image(axes, train.pixels(train.images[position]).cpu())
    atypical = scores[position] > threshold
    axes.set_title(
        f"{scores[position]:z.2f}",
        fontsize=11,
        pad=3,
        color=RED if atypical else GREY,
        fontweight="bold" if atypical else "normal",
    )
