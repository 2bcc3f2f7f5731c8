"""The study's figures. Points and lines are means over the seeds; bars and bands reach from smallest to largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.study.cells import (
    ALPHAS,
    ARMS,
    BENIGN,
    BOTH,
    BY_ALPHA,
    BY_R,
    DATASETS,
    NOISES,
    PLAIN,
    RS,
    WIDTHS,
    Arm,
    Cell,
)
from experiments.study.measure import in_sample
from experiments.study.summary import (
    UNIFORM,
    Outcome,
    Spread,
    Value,
    by_cell,
    clean,
    curve,
    epochs,
    final,
    robust,
    test_loss,
)
from fastat.report import BLUE, DPI, GREEN, GREY, ORANGE, RED, label_axes

_SKY, _PINK = "#56B4E9", "#CC79A7"
_TITLES = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10 (JPEG)"}
_COLORS = {
    PLAIN.name: BLUE,
    **dict(zip((arm.name for arm in BY_R), (ORANGE, RED, _PINK), strict=True)),
    **dict(zip((arm.name for arm in BY_ALPHA), (_SKY, GREEN), strict=True)),
    BOTH.name: "black",
    **dict(zip((arm.name for arm in BENIGN), (GREY, GREEN), strict=True)),
}
_NARROWEST = 0.04
"""Half of the shortest axis of accuracies: what a few hundred test images cannot tell apart should look alike."""
_OVER_TIME = (PLAIN, BY_R[1], BY_ALPHA[1], BOTH)

Cells = dict[Cell, list[Outcome]]


def draw(outcomes: Sequence[Outcome], folder: Path) -> list[Path]:
    """Draws what the outcomes suffice for, and returns the paths."""
    cells = by_cell(outcomes)
    figures = {
        "promise": _promise(cells),
        **{f"length-{name}": _length(cells, name) for name in DATASETS},
        "budgets": _budgets(cells),
        "width": _width(cells),
        "overfitting": _overfitting(cells),
        "bat": _benign(cells),
    }
    paths = []
    for name, figure in figures.items():
        if figure is not None:
            paths.append(folder / f"{name}.png")
            figure.savefig(paths[-1], dpi=DPI)
    return paths


def panel_title(data: str, noise: float) -> str:
    """The dataset, and whether labels are flipped."""
    return _TITLES[data] + (f", {noise:.0%} flipped labels" if noise else ", true labels")


def _promise(cells: Cells) -> Figure | None:
    panels = _panels(cells, lambda cell: cell.width == WIDTHS[cell.data])
    if not panels:
        return None
    rows, columns = _rows_and_columns(panels)
    figure = Figure(figsize=(max(9.5, 2.2 + 4.3 * len(columns)), 1.4 + 3.6 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False, sharey=True)
    for i, noise in enumerate(rows):
        for j, data in enumerate(columns):
            axes, names = grid[i][j], list(ARMS)
            for place, name in enumerate(names):
                y = len(names) - place
                if found := cells.get(Cell(data, name, noise, WIDTHS[data])):
                    _dumbbell(axes, y, final(found, Outcome.own_loss), final(found, test_loss))
                else:
                    axes.text(0.02, y, "not run", color=GREY, va="center", transform=axes.get_yaxis_transform())
            axes.axvline(UNIFORM, color=GREY, linestyle=":", linewidth=1.5, label="ln 10: uniform prediction")
            axes.set_yticks(range(len(names), 0, -1), names)
            axes.set_ylim(0.3, len(names) + 0.7)
            axes.set_xlim(0, 1.05 * axes.get_xlim()[1])
            axes.set_title(panel_title(data, noise), fontsize=12)
            label_axes(axes, "loss under attack (nats)", "")
    _share_legend(figure, grid[0][0])
    figure.suptitle("After training: HR loss of the training set, at the budgets of the training, and test loss")
    return figure


def _length(cells: Cells, data: str) -> Figure | None:
    noises = [noise for noise in NOISES if Cell(data, PLAIN.name, noise, WIDTHS[data]) in cells]
    arms = [arm for arm in _OVER_TIME if any(Cell(data, arm.name, noise, WIDTHS[data]) in cells for noise in noises)]
    if not noises:
        return None

    def fill(axes: Axes, arm: Arm, noise: float) -> None:
        if found := cells.get(Cell(data, arm.name, noise, WIDTHS[data])):
            _both(axes, epochs(found), curve(found, Outcome.own_loss), curve(found, test_loss), marker="o")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    title = (
        f"{_TITLES[data]}: HR loss of the training set at the budgets of the training, and test loss, over the training"
    )
    return _grid(arms, noises, "epoch", title, fill)


def _width(cells: Cells) -> Figure | None:
    data = "digits"
    widths = sorted({cell.width for cell in cells if cell.data == data})
    noises = [noise for noise in NOISES if any(cell.noise == noise and cell.width != WIDTHS[data] for cell in cells)]
    if len(widths) < 2:
        return None

    def fill(axes: Axes, arm: Arm, noise: float) -> None:
        found = [(width, cells.get(Cell(data, arm.name, noise, width), [])) for width in widths]
        found = [(width, runs) for width, runs in found if runs]
        own, test = ([final(runs, value) for _, runs in found] for value in (Outcome.own_loss, test_loss))
        _both(axes, [width for width, _ in found], own, test, marker="o")
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [str(width) for width in widths])
        axes.minorticks_off()

    title = (
        f"{_TITLES[data]}: HR loss of the training set at the budgets of the training, and test loss, by network size"
    )
    return _grid((PLAIN, BY_R[1], BY_ALPHA[1]), noises, "channels of the first stage", title, fill)


def _grid(
    arms: Sequence[Arm], noises: Sequence[float], x: str, title: str, fill: Callable[[Axes, Arm, float], None]
) -> Figure:
    """A column per arm, a row without and one with flipped labels."""
    figure = Figure(figsize=(1 + 3.6 * len(arms), 1.2 + 3.2 * len(noises)), layout="constrained")
    grid = figure.subplots(len(noises), len(arms), squeeze=False, sharex=True, sharey="row")
    for i, noise in enumerate(noises):
        for j, arm in enumerate(arms):
            fill(grid[i][j], arm, noise)
            grid[i][j].set_title(arm.name + (f", {noise:.0%} flipped" if noise else ", true labels"), fontsize=12)
            label_axes(grid[i][j], x if i == len(noises) - 1 else "", "loss under attack (nats)" if j == 0 else "")
        grid[i][0].set_ylim(bottom=0)  # of the whole row, once it is drawn
    grid[0][0].legend(fontsize=11)
    figure.suptitle(title, fontsize=12 if len(arms) > 2 else 10)
    return figure


def _budgets(cells: Cells) -> Figure | None:
    panels = _panels(cells, lambda cell: cell.arm == PLAIN.name and cell.width == WIDTHS[cell.data])
    if not panels:
        return None
    rows, columns = _rows_and_columns(panels)
    figure = Figure(figsize=(max(9.5, 1 + 4.3 * len(columns)), 1.2 + 3.4 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(columns), squeeze=False)
    for i, noise in enumerate(rows):
        for j, data in enumerate(columns):
            axes = grid[i][j]
            axes.set_title(panel_title(data, noise), fontsize=12)
            found = cells.get(Cell(data, PLAIN.name, noise, WIDTHS[data]))
            if found is None:
                continue
            for alpha, color in zip(ALPHAS, (BLUE, ORANGE, GREEN), strict=True):
                losses = [final(found, _at(alpha, r)) for r in RS]
                _band(axes, RS, losses, color, rf"training set, $\alpha$ = {alpha:g}", marker="o")
            test = final(found, test_loss)
            axes.axhline(test.mean, color=RED, linestyle="--", linewidth=2, label="test, mean loss")
            axes.axhspan(test.low, test.high, color=RED, alpha=0.15, linewidth=0)
            axes.set_ylim(bottom=0)
            label_axes(axes, "r (nats)", "loss under attack (nats)" if j == 0 else "")
    grid[0][0].legend(fontsize=10)
    figure.suptitle("Networks of plain adversarial training: the HR loss of their training set, by budget")
    return figure


def _overfitting(cells: Cells) -> Figure | None:
    arms = (PLAIN, *BY_R)
    panels = _panels(cells, lambda cell: cell.arm == BY_R[0].name and cell.width == WIDTHS[cell.data])
    if not panels:
        return None
    figure = Figure(figsize=(11.5, 0.8 + 3.3 * len(panels)), layout="constrained")
    grid = figure.subplots(len(panels), 2, squeeze=False, width_ratios=(3, 2))
    for (left, right), (data, noise) in zip(grid, panels, strict=True):
        for place, arm in enumerate(arms):
            if found := cells.get(Cell(data, arm.name, noise, WIDTHS[data])):
                _band(left, epochs(found), curve(found, robust), _COLORS[arm.name], arm.name)
                gaps = Spread(tuple(outcome.gap for outcome in found))
                right.bar(place, gaps.mean, color=_COLORS[arm.name], alpha=0.5, width=0.6)
                right.plot(
                    [place] * len(gaps.values), gaps.values, "o", color=_COLORS[arm.name], markersize=7, clip_on=False
                )
                last = epochs(found)[-1]
        for drop in (0.5, 0.75):
            left.axvline(drop * last, color=GREY, linewidth=1, linestyle=":")
        left.set_title(f"{panel_title(data, noise)} (dotted: learning rate / 10)", fontsize=12)
        left.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        label_axes(left, "epoch", "robust test accuracy")
        right.set_xticks(range(len(arms)), [arm.name.replace("HR ", "HR\n") for arm in arms])
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
        label_axes(right, "", "best less final")
        right.set_title("mean (bar), and each seed", fontsize=12)
    highest = max(right.get_ylim()[1] for _, right in grid)
    for _, right in grid:
        right.set_ylim(0, highest)
    grid[0][0].legend(fontsize=11, loc="lower right")
    figure.suptitle("Robust overfitting: robust accuracy over training, and its best value less the final one")
    return figure


def _benign(cells: Cells) -> Figure | None:
    panels = _panels(cells, lambda cell: cell.arm == BENIGN[0].name and cell.width == WIDTHS[cell.data])
    if not panels:
        return None
    figure = Figure(figsize=(max(7.5, 0.8 + 4.4 * len(panels)), 4.9), layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (data, noise) in zip(grid, panels, strict=True):
        seen = []
        for arm, color, marker in zip((PLAIN, *BENIGN), (BLUE, ORANGE, RED), "osD", strict=True):
            if found := cells.get(Cell(data, arm.name, noise, WIDTHS[data])):
                up, along = final(found, clean), final(found, robust)
                axes.plot(along.values, up.values, marker, color=color, markersize=6, alpha=0.45, linewidth=0)
                axes.plot(along.mean, up.mean, marker, color=color, markersize=13, label=arm.name, linewidth=0)
                seen += zip(along.values, up.values, strict=True)
        for values, limit, axis in zip(
            zip(*seen, strict=True), (axes.set_xlim, axes.set_ylim), (axes.xaxis, axes.yaxis), strict=True
        ):
            middle, reach = (min(values) + max(values)) / 2, 0.7 * (max(values) - min(values))
            reach = max(reach, _NARROWEST)
            limit(middle - reach, min(middle + reach, 1.005))
            axis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set_title(panel_title(data, noise).replace(", ", "\n", 1), fontsize=12)
        label_axes(axes, "robust test accuracy", "clean test accuracy")
    grid[0].legend(fontsize=11)
    figure.suptitle("Benign adversarial training: mean (large) and each seed (small)")
    return figure


def _at(alpha: float, r: float) -> Value:
    return lambda outcome, row: row[in_sample(alpha, r)]


def _panels(cells: Cells, chosen: Callable[[Cell], bool]) -> list[tuple[str, float]]:
    """Pairs (dataset, flipped) of the chosen cells, in the order of the study."""
    there = {(cell.data, cell.noise) for cell in cells if chosen(cell)}
    return [(data, noise) for data in DATASETS for noise in NOISES if (data, noise) in there]


def _rows_and_columns(panels: Sequence[tuple[str, float]]) -> tuple[list[float], list[str]]:
    """Shares of flipped labels and datasets that have a panel, in the order of the study."""
    rows = [noise for noise in NOISES if any(panel[1] == noise for panel in panels)]
    return rows, [data for data in DATASETS if any(panel[0] == data for panel in panels)]


def _dumbbell(axes: Axes, y: float, own: Spread, test: Spread) -> None:
    axes.plot([own.mean, test.mean], [y, y], color=GREY, linewidth=1.2, alpha=0.6)
    for spread, color, marker, name in (
        (own, BLUE, "o", "training set, HR loss"),
        (test, RED, "D", "test, mean loss"),
    ):
        reach = [[spread.mean - spread.low], [spread.high - spread.mean]]
        axes.errorbar(spread.mean, y, xerr=reach, color=color, marker=marker, markersize=8, capsize=3, label=name)


def _both(axes: Axes, x: Sequence[float], own: Sequence[Spread], test: Sequence[Spread], **style: Any) -> None:
    _band(axes, x, own, BLUE, "training set, HR loss", **style)
    _band(axes, x, test, RED, "test, mean loss", "--", **style)


def _band(
    axes: Axes, x: Sequence[float], y: Sequence[Spread], color: str, name: str, line: str = "-", **style: Any
) -> None:
    axes.plot(x, [spread.mean for spread in y], color=color, linestyle=line, linewidth=2, label=name, **style)
    low, high = [spread.low for spread in y], [spread.high for spread in y]
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)


def _share_legend(figure: Figure, axes: Axes) -> None:
    handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=11)
