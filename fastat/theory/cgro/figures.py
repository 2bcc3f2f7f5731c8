"""Pictures of the experiment."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from fastat.report import BLUE, DPI, GREEN, GREY, ORANGE, RED, label_axes
from fastat.theory.cgro.dynamics import POWER
from fastat.theory.cgro.runs import phase_diagram

CountAxis = Literal["points", "dimension"]

_ACCURACIES = (
    ("robust_train", RED, "s", "robust train"),
    ("clean_test", BLUE, "o", "clean test"),
    ("robust_test", ORANGE, "^", "robust test"),
)
_STAGES = ("#DCEBF5", "#FBEFD5", "#DDF1EA")  # pale blue, orange and green
_INSTEAD = {"not fitted": "not\nfitted", "not clean": "not\nclean", "robust": "robust"}


def plot_dynamics(path: Path, run: dict[str, Any]) -> None:
    """Output by feature and by noise, margins and accuracies against the step, with the stages shaded."""
    figure = Figure(figsize=(15, 5.4), layout=ConstrainedLayoutEngine(w_pad=0.14))
    figure.suptitle(
        rf"Adversarial training on patches: $\alpha$ = {run['alpha']:g}, $\delta$ = {run['delta']:g}, "
        rf"$\sigma$ = {run['sigma']:g}, N = {run['n']}, d = {run['dim']}, m = {run['filters']}",
        fontsize=14,
    )
    output, margins, accuracies = figure.subplots(1, 3)
    steps, memory = run["step"], np.array(run["V"])
    for column in range(memory.shape[1]):
        label = r"$V_i$, noise of each sample" if column == 0 else None
        output.plot(steps, memory[:, column], color=RED, linewidth=0.8, alpha=0.4, label=label)
    output.plot(steps, memory.mean(1), color="black", linewidth=2.5, linestyle="--", label=r"mean of the $V_i$")
    output.plot(steps, run["U"], color=BLUE, linewidth=2.8, label="$U$, true feature")
    output.set_yscale("symlog", linthresh=0.01, linscale=0.4)
    output.set_ylim(top=100 * memory.max())
    label_axes(output, "step", "$U$ and $V_i$ (symmetric log)")

    margin = (run["alpha"] - run["delta"]) ** POWER * np.array(run["U"])[:, None] + memory
    for column, values in enumerate(margin.T):
        label = "each training sample" if column == 0 else None
        margins.plot(steps, values, color=GREY, linewidth=0.8, alpha=0.6, label=label)
    margins.axhline(1, color=GREEN, linestyle="--", linewidth=1.8, label="fitted: margin 1")
    margins.axhline(0, color="black", linewidth=0.8)
    margins.set_ylim(top=1.35 * margin.max())
    label_axes(margins, "step", "margin of the worst case")

    for key, color, _, label in _ACCURACIES:
        accuracies.plot(steps, run[key], color=color, linewidth=2.4, label=label)
    accuracies.axhline(0.5, color=GREY, linestyle=":", linewidth=1.5, label="chance")
    accuracies.set_ylim(0, 1.28)
    accuracies.set_yticks(np.arange(0, 1.01, 0.2))
    accuracies.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_axes(accuracies, "step", "accuracy")
    for axes in (output, margins, accuracies):
        _shade(axes, run)
        axes.legend(loc="upper left", fontsize=11, ncols=2 if axes is accuracies else 1, framealpha=0.9)
    figure.savefig(path, dpi=DPI)


def plot_phases(
    path: Path,
    over_sigma: Sequence[dict[str, Any]],
    over_size: Sequence[dict[str, Any]],
    framed: Sequence[tuple[float, float]],
) -> None:
    """Share of the runs with CGRO over (delta, sigma) and (delta, N); some places (delta, sigma) framed."""
    figure = Figure(figsize=(15, 6.2), layout="constrained")
    figure.suptitle("Share of the seeds with clean generalization and robust overfitting", fontsize=14)
    grids = figure.subplots(1, 2)
    sigma = over_size[0]["sigma"]
    cases = (
        (over_sigma, "sigma", r"noise $\sigma$", f"N = {over_sigma[0]['n']}"),
        (over_size, "n", "training samples N", rf"$\sigma$ = {sigma:g}"),
    )
    for axes, (runs, row, label, title) in zip(grids, cases, strict=True):
        shares = phase_diagram(runs, row, "delta")
        drawn = axes.imshow(shares["cgro"], origin="lower", aspect="auto", cmap="cividis", vmin=0, vmax=1)
        rows, columns = (sorted({run[name] for run in runs}) for name in (row, "delta"))
        axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
        axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
        label_axes(axes, r"radius $\delta$ of the attack (the signal has strength 1)", label)
        axes.grid(visible=False)
        axes.set_title(title, fontsize=13)
        _write_cells(axes, shares)
        for delta, value in framed if row == "sigma" else ():
            if delta in columns and value in rows:
                corner = (columns.index(delta) - 0.46, rows.index(value) - 0.46)
                axes.add_patch(Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=RED, linewidth=3))
    bar = figure.colorbar(drawn, ax=grids, fraction=0.03, pad=0.01)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    bar.ax.tick_params(labelsize=11)
    figure.savefig(path, dpi=DPI)


def plot_bars(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The three accuracies of f and f_S for each dataset."""
    figure, panels = _panels(rows, height=5.2)
    for axes, name, own in panels:
        for place, (model, color, label) in enumerate(
            (("f", GREY, "$f$, trained without attack"), ("f_S", GREEN, "$f_S$, with a bump around each image"))
        ):
            values = np.array([[row[model][key] for key, *_ in _ACCURACIES] for row in own])
            at = np.arange(3) + (place - 0.5) * 0.38
            reach = _reach(values)
            axes.bar(at, values.mean(0), 0.36, yerr=reach, color=color, capsize=5, label=label)
            for x, mean, above in zip(at, values.mean(0), reach[1], strict=True):
                axes.text(x, mean + above + 0.015, f"{mean:.1%}", ha="center", fontsize=12)
        axes.set_xticks(range(3), [label for *_, label in _ACCURACIES])
        axes.set_ylim(0, 1.3)
        axes.set_yticks(np.arange(0, 1.01, 0.2))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        label_axes(axes, "", f"accuracy (robust: {own[0]['attack'].upper()})")
        axes.tick_params(axis="x", labelsize=13)
        axes.grid(visible=False, axis="x")
        axes.legend(loc="upper center", fontsize=12)
        axes.set_title(rf"{name}, $\ell_\infty$ $\delta$ = {own[0]['delta']:.3g}, {len(own)} seeds", fontsize=13)
    figure.savefig(path, dpi=DPI)


def plot_widths(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """The three accuracies of adversarially trained networks against width, for each dataset."""
    figure, panels = _panels(rows, height=5.4)
    for axes, name, own in panels:
        widths = sorted({row["width"] for row in own})
        for key, color, marker, label in _ACCURACIES:
            values = np.array([[row[key] for row in own if row["width"] == width] for width in widths]).T
            axes.errorbar(
                widths, values.mean(0), _reach(values), color=color, marker=marker, markersize=8, linewidth=2.2,
                capsize=5, label=label,
            )  # fmt: skip
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.set_ylim(top=1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        label_axes(axes, "width (channels of the first stage)", f"accuracy (robust: {own[0]['attack'].upper()})")
        axes.legend(loc="lower right", fontsize=12)
        seeds, images = len({row["seed"] for row in own}), own[0]["train_images"]
        title = rf"{name}: adversarial training, $\ell_\infty$ $\epsilon$ = {own[0]['delta']:.3g}"
        axes.set_title(f"{title}\n{images:,} images, {own[0]['epochs']} epochs, {seeds} seeds", fontsize=13)
    figure.savefig(path, dpi=DPI)


def plot_counts(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Extra parameters of memorizers against N and against D, both logarithmic, with the fitted powers."""
    figure = Figure(figsize=(13, 5.2), layout="constrained")
    axes_labels: tuple[tuple[CountAxis, str], ...] = (
        ("points", "training images N"),
        ("dimension", "numbers in an image D"),
    )
    for axes, (axis, text) in zip(figure.subplots(1, 2), axes_labels, strict=True):
        for name, color, marker in zip(_datasets(rows), (BLUE, RED, GREEN, ORANGE, GREY), "os^Dv", strict=False):
            values, counts = count_curve(_of_data(rows, name), axis)
            label = f"{name}: power {slope(values, counts):.3f}"
            axes.loglog(values, counts, color=color, marker=marker, markersize=8, linewidth=2, label=label)
        label_axes(axes, text, "extra nonzero parameters")
        axes.legend(loc="upper left", fontsize=12)
    figure.savefig(path, dpi=DPI)


def count_curve(rows: Sequence[dict[str, Any]], axis: CountAxis) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The counts against one of the two, where the other has its smallest value: (values, parameters), ascending."""
    other = "dimension" if axis == "points" else "points"
    least = min(row[other] for row in rows)
    pairs = sorted((row[axis], row["parameters"]) for row in rows if row[other] == least)
    values, parameters = np.array(pairs, dtype=np.float64).T
    return values, parameters


def slope(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """The power p of the fit y ~ x^p, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _panels(
    rows: Sequence[dict[str, Any]], height: float
) -> tuple[Figure, list[tuple[Axes, str, list[dict[str, Any]]]]]:
    """A figure with a panel for each dataset, and of each its axes, its name and its rows."""
    names = _datasets(rows)
    figure = Figure(figsize=(7.5 * len(names), height), layout="constrained")
    grid = figure.subplots(1, len(names), squeeze=False)[0]
    return figure, [(axes, name, _of_data(rows, name)) for axes, name in zip(grid, names, strict=True)]


def _datasets(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(row["data"] for row in rows))


def _of_data(rows: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [row for row in rows if row["data"] == name]


def _shade(axes: Axes, run: dict[str, Any]) -> None:
    """The stages behind the curves, numbered above them."""
    end = run["step"][-1]
    starts = [0, run["memorizing"], run["fitted"]]
    edges = [start for start in starts if start is not None] + [end]
    axes.set_xlim(0, end)
    for number, (left, right) in enumerate(pairwise(edges)):
        axes.axvspan(left, right, color=_STAGES[number], zorder=0, linewidth=0)
        if number > 0:
            axes.axvline(left, color="black", linestyle=":", linewidth=1.2)
        middle = (left + right) / 2 / end
        axes.text(middle, 1.015, f"stage {number + 1}", transform=axes.transAxes, ha="center", fontsize=12)


def _write_cells(axes: Axes, shares: dict[str, NDArray[np.float64]]) -> None:
    for (row, column), share in np.ndenumerate(shares["cgro"]):
        others = {text: shares[kind][row, column] for kind, text in _INSTEAD.items()}
        text = f"{share:.0%}" if share > 0 else max(others, key=lambda name: others[name])
        color = "black" if share > 0.55 else "white"
        weight = "bold" if share > 0 else "normal"
        axes.text(column, row, text, ha="center", va="center", fontsize=12, color=color, fontweight=weight)


def _reach(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From the mean over the first axis to the lowest and to the highest, [2, ...], as error bars want it."""
    mean = values.mean(0)
    return np.maximum(np.stack([mean - values.min(0), values.max(0) - mean]), 0)
