"""What adversarial training makes of typical and atypical samples: removal, fitting, protocols."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from fastat.report import BLUE, DPI, GREEN, GREY, ORANGE, RED, format_eps, label_axes
from fastat.theory.memorization.cells import KINDS
from fastat.theory.memorization.comparison import mean_interval
from fastat.theory.memorization.summary import BENIGN, FULL, Bed

_COLORS = {"typical": BLUE, "atypical": RED}
_KIND_NAMES = {"clean": "clean", "pgd-10": "PGD-10"}
_PROTOCOLS = {FULL: ("PGD-AT", GREY), "trades": ("TRADES", ORANGE), "mart": ("MART", GREEN), BENIGN: ("BAT", BLUE)}
_BAR = 0.8  # width of the bars of one group together


def plot_removal(path: Path, bed: Bed) -> None:
    """Accuracy of typical and atypical test samples against what is removed, clean and robust, a row for each eps."""
    figure, grid = _pairs(len(bed.eps), f"{bed.title}: PGD-AT without a part of its training samples")
    for row, eps in zip(grid, bed.eps, strict=True):
        for axes, kind in zip(row, KINDS, strict=True):
            for group, color in _COLORS.items():
                if bed.samples[f"{group} test"]:
                    _removal_lines(axes, bed, eps, f"{group} test {kind}", color)
            _percent(axes)
            axes.set_title(rf"{_KIND_NAMES[kind]}, $\epsilon$ = {format_eps(eps)}", fontsize=13)
            label_axes(axes, "", f"{_KIND_NAMES[kind]} accuracy, test")
            axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    atypical, n = bed.samples["atypical train"], bed.samples["typical train"] + bed.samples["atypical train"]
    lines = [
        *(_line(color, "-", "o", _sized(bed, f"{group} test", "samples")) for group, color in _COLORS.items()),
        _line(GREY, "-", "o", "most memorized samples removed"),
        _line(GREY, "--", "s", "as many random samples removed"),
    ]
    _label_below(figure, grid, f"training samples removed (100%: {atypical} of {n:,})", lines)
    figure.savefig(path, dpi=DPI)


def plot_curves(path: Path, bed: Bed) -> None:
    """Accuracy of typical and atypical samples by epoch of PGD-AT, training beside test, a row for each eps."""
    figure, grid = _pairs(len(bed.curves), f"{bed.title}: fitting typical and atypical samples by PGD-AT")
    for row, curve in zip(grid, bed.curves, strict=True):
        for axes, half in zip(row, ("train", "test"), strict=True):
            for group, color in _COLORS.items():
                for kind, style in zip(KINDS, ("-", "--"), strict=True):
                    values = curve.accuracy.get(f"{group} {half} {kind}")
                    if values is not None:
                        _band(axes, curve.epochs, values, color, style)
            _percent(axes)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            name = {"train": "training", "test": "test"}[half]
            axes.set_title(rf"{name} samples, $\epsilon$ = {format_eps(curve.eps)}", fontsize=13)
            label_axes(axes, "", f"accuracy on {name} samples")
    sizes = {
        group: f"{group} ({bed.samples[f'{group} train']:,} training, {bed.samples[f'{group} test']:,} test)"
        for group in _COLORS
    }
    lines = [
        *(_line(color, "-", "", sizes[group]) for group, color in _COLORS.items()),
        _line(GREY, "-", "", "clean"),
        _line(GREY, "--", "", "under PGD-10"),
    ]
    _label_below(figure, grid, "epoch", lines)
    figure.savefig(path, dpi=DPI)


def plot_protocols(path: Path, bed: Bed) -> None:
    """Clean and robust accuracy of typical and atypical test samples under each protocol, as bars; a panel per eps."""
    figure = Figure(figsize=(max(8.0, 6.5 * len(bed.eps)), 5.6), layout="constrained")
    figure.suptitle(f"{bed.title}: protocols on all training samples", fontsize=14)
    groups = [name for name in ("typical test", "atypical test") if bed.samples[name]]
    columns = [(group, kind) for group in groups for kind in KINDS]
    for axes, eps in zip(figure.subplots(1, len(bed.eps), squeeze=False)[0], bed.eps, strict=True):
        trained = [t.condition for t in bed.trainings if t.eps == eps and " " not in t.condition]
        names = [name for name in _PROTOCOLS if name in trained] + [name for name in trained if name not in _PROTOCOLS]
        width = _BAR / len(names)
        for number, name in enumerate(names):
            title, color = _PROTOCOLS.get(name, (name, "#CC79A7"))
            found = bed.accuracy(eps, name)
            means, reach = mean_interval(np.array([found[f"{group} {kind}"] for group, kind in columns]).T)
            places = np.arange(len(columns)) - _BAR / 2 + width * (number + 0.5)
            axes.bar(places, means, width, yerr=reach, capsize=3, color=color, label=title, edgecolor="white")
        axes.set_xticks(range(len(columns)), [f"{group.split()[0]}\n{_KIND_NAMES[kind]}" for group, kind in columns])
        _percent(axes)
        label_axes(axes, "", "accuracy on test samples")
        axes.grid(visible=False, axis="x")
        axes.set_axisbelow(True)
        axes.set_title(rf"$\epsilon$ = {format_eps(eps)}", fontsize=13)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", fontsize=12, ncols=len(labels))
    figure.savefig(path, dpi=DPI)


def _pairs(rows: int, title: str) -> tuple[Figure, NDArray[Any]]:
    """A figure of so many rows of two panels, and its axes [rows, 2]."""
    figure = Figure(figsize=(12, 4.4 * rows + 1), layout="constrained")
    figure.suptitle(title, fontsize=14)
    return figure, figure.subplots(rows, 2, squeeze=False, sharex=True)


def _label_below(figure: Figure, grid: NDArray[Any], text: str, lines: list[Line2D]) -> None:
    """What the last row's x axes show, and a legend of the lines below them."""
    for axes in grid[-1]:
        axes.set_xlabel(text, fontsize=12)
    figure.legend(handles=lines, loc="outside lower center", fontsize=12, ncols=2)


def _removal_lines(axes: Axes, bed: Bed, eps: float, name: str, color: str) -> None:
    conditions = [t.condition for t in bed.trainings if t.eps == eps]
    for order, style, marker, shift in (("score", "-", "o", -0.006), ("random", "--", "s", 0.006)):
        removed = [condition for condition in conditions if condition.startswith(order)]
        parts = np.array([0.0, *(float(condition.split()[1]) for condition in removed)])
        values = np.array([bed.accuracy(eps, condition)[name] for condition in (FULL, *removed)]).T
        means, reach = mean_interval(values)
        line: dict[str, Any] = {"color": color, "linestyle": style, "marker": marker, "linewidth": 2, "markersize": 6}
        axes.errorbar(parts + shift, means, reach, capsize=4, **line)


def _band(axes: Axes, epochs: Sequence[int], values: Sequence[Sequence[float]], color: str, style: str) -> None:
    means, reach = mean_interval(np.array(values))
    axes.plot(epochs, means, color=color, linestyle=style, linewidth=2.2)
    axes.fill_between(epochs, means - reach, means + reach, color=color, alpha=0.2, linewidth=0)


def _sized(bed: Bed, group: str, what: str) -> str:
    return f"{group} {what} ({bed.samples[group]:,})"


def _line(color: str, style: Literal["-", "--"], marker: str, label: str) -> Line2D:
    return Line2D([], [], color=color, linestyle=style, marker=marker, linewidth=2.2, markersize=6, label=label)


def _percent(axes: Axes) -> None:
    axes.set_ylim(0, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
