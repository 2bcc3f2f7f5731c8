"""The pictures of the experiment."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fastat.evaluation import wilson_interval
from fastat.report import BLUE, DPI, ORANGE, RED, format_eps, label_axes, show_image
from fastat.theory.catastrophic.carriers import carriers, inject, inject_projected
from fastat.theory.catastrophic.cell import TITLES
from fastat.theory.catastrophic.sweeping import Outcome
from fastat.theory.catastrophic.trainings import Trainings
from fastat.theory.result import Picture

_SHOWN = 10  # patterns
_PARTS = {
    "injected": "injected\n(as trained)",
    "original": "original\nimages",
    "removed": "feature\nremoved",
    "alone": "feature\nalone",
    "reversed": "feature\nreversed",
}


def plot_all(result: Trainings, folder: Path) -> list[Picture]:
    """Draws every figure into the folder."""
    s = result.settings
    at = f"eps {format_eps(s.eps)}, beta {format_eps(s.beta)}"
    plot_grid(folder / "grid.png", result)
    plot_collapse(folder / "collapse.png", result)
    plot_parts(folder / "parts.png", result)
    plot_compared(folder / "compared.png", result)
    plot_carriers(folder / "carriers.png", result)
    return [
        Picture(
            "grid.png",
            f"PGD accuracy at the end of FGSM training, by the amplitude of the feature and the radius of the attack; "
            f"{result.example.title}, first seed. Framed: training collapsed.",
        ),
        Picture(
            "collapse.png",
            f"FGSM training at {at}: accuracy under FGSM and PGD by epoch, and the curvature of the loss along the "
            "step; each seed a line.",
        ),
        Picture(
            "parts.png",
            f"What networks go by at {at}: accuracy on the images and on parts of them, at the epoch of the best PGD "
            "accuracy and at the end. The bar is the mean over the seeds, each dot a seed.",
        ),
        Picture(
            "compared.png",
            f"Other ways to train at {at}, first seed, at the end of training; intervals of 95% over the test images.",
        ),
        Picture("carriers.png", "The pattern of each class, and an image with the pattern of its class."),
    ]


def plot_grid(path: Path, result: Trainings) -> None:
    """Heat map of the final PGD accuracy, a row per radius; collapsed cells are framed and say when."""
    betas, epsilons = sorted(result.settings.betas), sorted(result.settings.epsilons, reverse=True)
    grid = [[result.fgsm(beta, eps)[0] for beta in betas] for eps in epsilons]
    figure = Figure(
        figsize=(max(1.45 * len(betas) + 2.6, 6.4), max(1.2 * len(epsilons) + 1.6, 3.6)), layout="constrained"
    )
    axes = figure.subplots()
    picture = axes.imshow(
        [[outcome.last["pgd"] for outcome in row] for row in grid], cmap="cividis", vmin=0, vmax=1, aspect="auto"
    )
    for y, row in enumerate(grid):
        for x, outcome in enumerate(row):
            _grid_cell(axes, x, y, outcome)
    label_axes(axes, "amplitude of the feature, beta", "radius of the attack, eps")
    axes.grid(False)
    axes.set_xticks(range(len(betas)), [format_eps(beta) for beta in betas])
    axes.set_yticks(range(len(epsilons)), [format_eps(eps) for eps in epsilons])
    bar = figure.colorbar(picture, ax=axes, format=PercentFormatter(1.0))
    bar.set_label("PGD accuracy at the end", fontsize=12)
    bar.ax.tick_params(labelsize=11)
    axes.set_title(f"FGSM training on {result.example.title} with an injected feature", fontsize=13)
    figure.savefig(path, dpi=DPI)


def _grid_cell(axes: Axes, x: int, y: int, outcome: Outcome) -> None:
    accuracy, epoch = outcome.last["pgd"], outcome.collapse
    text = f"{accuracy:.0%}" + ("" if epoch is None else f"\ncollapsed\nepoch {epoch}")
    axes.text(x, y, text, ha="center", va="center", fontsize=12, color="white" if accuracy < 0.55 else "black")
    if epoch is not None:
        square = [x - 0.47, x + 0.47, x + 0.47, x - 0.47, x - 0.47], [y - 0.47, y - 0.47, y + 0.47, y + 0.47, y - 0.47]
        axes.plot(*square, color=RED, linewidth=3)


def plot_collapse(path: Path, result: Trainings) -> None:
    """Accuracy above, curvature below on a logarithmic scale; with the feature, and without it dashed."""
    figure = Figure(figsize=(8.6, 7.2), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for runs, dashed in ((result.collapsing, False), (result.without, True)):
        style: dict[str, Any] = {"linestyle": "--" if dashed else "-", "linewidth": 1.5 if dashed else 2}
        beta = format_eps(runs[0].cell.beta)
        for number, outcome in enumerate(runs):
            epochs = [row["epoch"] for row in outcome.history]
            for axes, name, color, label in (
                (above, "fgsm", ORANGE, f"FGSM, beta {beta}"),
                (above, "pgd", RED, f"{_attack_title(outcome)}, beta {beta}"),
                (below, "curvature", BLUE, f"beta {beta}"),
            ):
                values = [row[name] for row in outcome.history]
                axes.plot(epochs, values, color=color, label=label if number == 0 else None, **style)
    above.set_ylim(0, 1.02)
    above.yaxis.set_major_formatter(PercentFormatter(1.0))
    below.set_yscale("log")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_axes(above, "", "accuracy on test images")
    label_axes(below, "epoch", "curvature along the FGSM step\n(change of the loss gradient)")
    for axes in (above, below):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=11)
    seeds = len(result.collapsing)
    above.set_title(f"FGSM training, eps {format_eps(result.settings.eps)}, {seeds} seeds", fontsize=13)
    figure.savefig(path, dpi=DPI)


def _attack_title(outcome: Outcome) -> str:
    return outcome.cell.attack.upper()


def plot_parts(path: Path, result: Trainings) -> None:
    """Bars of the accuracy on each view of the test images, before and after; one dot per seed."""
    figure = Figure(figsize=(9.2, 4.8), layout="constrained")
    axes = figure.subplots()
    runs = result.collapsing
    for shift, color, label, rows in (
        (-0.2, BLUE, "at the best PGD accuracy", [run.best for run in runs]),
        (0.2, RED, "at the end", [run.last for run in runs]),
    ):
        values = np.array([[row[part] for part in _PARTS] for row in rows])
        places = np.arange(len(_PARTS)) + shift
        axes.bar(places, values.mean(0), width=0.38, color=color, alpha=0.75, label=label)
        for run in values:
            axes.plot(places, run, "o", color="black", markersize=5)
    axes.set_xticks(range(len(_PARTS)), list(_PARTS.values()))
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_axes(axes, "", "accuracy, not attacked")
    axes.grid(axis="x", visible=False)
    s = result.settings
    axes.set_title(f"What FGSM-trained networks go by, eps {format_eps(s.eps)}, beta {format_eps(s.beta)}", fontsize=13)
    figure.legend(loc="outside lower center", fontsize=11, ncols=2)
    figure.savefig(path, dpi=DPI)


def plot_compared(path: Path, result: Trainings) -> None:
    """Final clean, FGSM and PGD accuracy of every way to train at (beta, eps)."""
    projected = result.chosen(lambda cell: cell.injection == "projected")
    outcomes = [*result.compared(), *projected, *result.compared(filtered=True)]
    runs = {_training_title(outcome): outcome for outcome in outcomes}
    figure = Figure(figsize=(1.25 * len(runs) + 2.4, 5), layout="constrained")
    axes = figure.subplots()
    kinds = (("clean", BLUE, "not attacked"), ("fgsm", ORANGE, "FGSM"), ("pgd", RED, _attack_title(result.outcomes[0])))
    for kind, (name, color, label) in enumerate(kinds):
        values = [run.last[name] for run in runs.values()]
        places = np.arange(len(runs)) + 0.27 * (kind - 1)
        axes.bar(places, values, width=0.25, color=color, label=label)
        axes.errorbar(places, values, _reach(values, result.test_images), fmt="none", color="black", capsize=3)
    axes.set_xticks(range(len(runs)), list(runs))
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_axes(axes, "", f"accuracy at the end ({result.test_images} test images)")
    axes.grid(axis="x", visible=False)
    s = result.settings
    axes.set_title(f"Training at eps {format_eps(s.eps)}, beta {format_eps(s.beta)}", fontsize=13)
    figure.legend(loc="outside lower center", fontsize=11, ncols=3)
    figure.savefig(path, dpi=DPI)


def _training_title(outcome: Outcome) -> str:
    cell = outcome.cell
    if cell.injection == "projected":
        return "FGSM,\nprojected\ninjection"
    return f"FGSM,\nlow pass\nW = {cell.bandwidth}" if cell.bandwidth else TITLES[cell.method]


def _reach(values: Sequence[float], n: int) -> np.ndarray[Any, Any]:
    """How far the 95% intervals reach down and up: [2, len(values)]."""
    intervals = [wilson_interval(value, n) for value in values]
    return np.array([[max(v - low, 0), max(high - v, 0)] for v, (low, high) in zip(values, intervals, strict=True)]).T


def plot_carriers(path: Path, result: Trainings) -> None:
    """The patterns of the first ten classes, and below an image with growing amplitudes of its own."""
    example, s = result.example, result.settings
    x, y = torch.tensor(example.image)[None], torch.tensor([example.label])
    patterns = carriers(len(example.classes), (x.shape[1], x.shape[2], x.shape[3]))
    amplitudes = sorted({0.0, s.beta, *s.betas})[:6]
    images = [(f"beta {format_eps(beta)}" if beta else "image", inject(x, y, patterns, beta)) for beta in amplitudes]
    images.append((f"reversed,\n{format_eps(-s.beta)}", inject(x, y, patterns, -s.beta)))
    images.append((f"projected,\nbeta {format_eps(s.beta)}", inject_projected(x, y, patterns, s.beta)))
    columns = max(min(len(patterns), _SHOWN), len(images))
    figure = Figure(figsize=(1.3 * columns + 0.4, 4.2), layout="constrained")
    figure.suptitle(
        "the pattern of each class (white: +1, black: -1), and an image with that of its class", fontsize=13
    )
    grid = figure.subplots(2, columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, pattern, name in zip(grid[0], patterns, example.classes, strict=False):
        axes.set_axis_on()
        show_image(axes, (pattern + 1) / 2)
        axes.set_title(name, fontsize=12, parse_math=False)
    for axes, (name, image) in zip(grid[1], images, strict=False):
        axes.set_axis_on()
        show_image(axes, image[0].clamp(0, 1))
        axes.set_title(name, fontsize=11)
    figure.savefig(path, dpi=DPI)
