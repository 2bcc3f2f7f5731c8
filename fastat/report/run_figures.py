"""Drawing, with matplotlib's Figure objects: no window, no global state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from fastat.support.files.foreign_json import MOST

# colours that stay apart for colour-blind readers (Okabe and Ito)
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
_VAL_LINES = (("clean", BLUE, "clean"), ("fgsm", ORANGE, "FGSM"), ("pgd-20", RED, "PGD-20"))
DPI = 160
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x00\x00\x00\x00IEND\xaeB`\x82"


@dataclass(frozen=True)
class Examples:
    """Images to show beside their adversarial twins.

    Attributes:
        images: [N, C, H, W], on the CPU.
        adversarial: the same images under attack.
        true: the class of each, which the network finds without the attack.
        predicted: the predicted class under attack.
        shown: a line that says which images these are.
    """

    images: Tensor
    adversarial: Tensor
    true: list[str]
    predicted: list[str]
    shown: str


def is_whole_png(content: bytes) -> bool:
    """Whether it starts and ends as a drawn figure does: one whose writing was cut short does not."""
    return content.startswith(_PNG_START) and content.endswith(_PNG_END)


def plot_curves(path: Path, history: Sequence[Mapping[str, Any]], title: str, best: int | None = None) -> None:
    """Training loss, and train and validation accuracy, by epoch; at least one epoch. The best epoch is marked."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    figure.suptitle(title, fontsize=13)
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    epochs = [row["epoch"] for row in history]
    marker = "o" if len(epochs) < 16 else None
    losses = drawable(row["train"]["loss"] for row in history)
    left.plot(epochs, losses, color=BLUE, linewidth=2, marker=marker, markersize=4)
    if (highest := max((loss for loss in losses if loss > 0), default=0.0)) > 0:
        left.set_ylim(0, 1.06 * highest)
    label_axes(left, "epoch", "training objective (nats)")

    style: dict[str, Any] = {"linewidth": 2, "marker": marker, "markersize": 4}
    adversarial = [row["train"]["adversarial"] for row in history]
    right.plot(epochs, adversarial, color=GREY, linestyle="--", label="train, under its attack", **style)
    if history[0]["val"]:
        for name, color, label in _VAL_LINES:
            accuracy = [row["val"][name] for row in history]
            right.plot(epochs, accuracy, color=color, label=f"validation, {label}", **style)
    if best is not None:
        right.axvline(best, color=GREY, linestyle=":", linewidth=1.5, label="best epoch")
    right.set_ylim(0, 1.02)
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    watched = history[-1]["val_images"]
    label_axes(right, "epoch", f"accuracy ({watched} validation images)" if watched else "accuracy")
    right.legend(loc="best", fontsize=11)
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.savefig(path, dpi=DPI)


def plot_robustness(
    path: Path, radii: Sequence[float], accuracy: Sequence[float], n: int, trained: float, label: str, title: str
) -> None:
    """Accuracy under PGD-20 against the radius, with the radius of the training marked."""
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(radii, accuracy, color=RED, linewidth=2.2, marker="o", markersize=6, label=f"PGD-20 ({n} test images)")
    axes.axvline(trained, color=GREY, linestyle="--", linewidth=1.5, label=r"$\epsilon$ of the training")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    label_axes(axes, label, "accuracy under attack")
    axes.legend(loc="best", fontsize=11)
    axes.set_title(title, fontsize=12)
    figure.savefig(path, dpi=DPI)


def plot_examples(path: Path, examples: Examples, title: str, span: tuple[float, float] = (0.0, 1.0)) -> None:
    """A column per image: the image, its adversarial twin, the difference amplified around grey; ``span`` has the
    values of black and white."""
    columns = len(examples.true)
    figure = Figure(figsize=(1.5 * max(columns, 5) + 1.4, 5.9), layout="constrained")
    figure.suptitle(f"{title}\n{examples.shown}", fontsize=13)
    if columns == 0:
        figure.savefig(path, dpi=DPI)
        return
    difference = examples.adversarial - examples.images
    amplification = 0.5 / max(float(difference.abs().max()), 1e-12)
    seen = [(images - span[0]) / (span[1] - span[0]) for images in (examples.images, examples.adversarial)]
    rows = (*seen, (0.5 + amplification * difference).clamp(0, 1))
    names = ("image\n(true class)", "under attack\n(prediction)", f"difference x {amplification:.3g}\n(grey: none)")
    grid = figure.subplots(3, columns, squeeze=False)
    for row, (images, name) in enumerate(zip(rows, names, strict=True)):
        for axes, image in zip(grid[row], images, strict=True):
            show_image(axes, image)
        grid[row][0].set_ylabel(name, fontsize=12)
    for column, (true, predicted) in enumerate(zip(examples.true, examples.predicted, strict=True)):
        right = true == predicted
        color = GREEN if right else RED
        # a class may be called anything: its dollar signs are no formula
        grid[0][column].set_title(true, fontsize=12, parse_math=False)
        grid[1][column].set_title(predicted, fontsize=12, color=color, fontweight="bold", parse_math=False)
    figure.savefig(path, dpi=DPI)


def can_be_drawn(image_shape: tuple[int, ...]) -> bool:
    """Whether samples are pictures (C, H, W): grey or of three colours, and of more than one pixel."""
    return len(image_shape) == 3 and image_shape[0] in (1, 3) and image_shape[1] * image_shape[2] > 1


def show_image(axes: Axes, image: Tensor) -> None:
    """An image [C, H, W] in [0, 1], without ticks."""
    pixels: np.ndarray[Any, Any] = image.permute(1, 2, 0).numpy()
    axes.imshow(pixels[..., 0] if pixels.shape[-1] == 1 else pixels, cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])


def drawable(values: Iterable[float]) -> list[float]:
    """The values, with gaps (NaN) for those that no axis can show."""
    return [value if abs(value) <= MOST else math.nan for value in values]


def literal(text: str) -> str:
    """The text as matplotlib shows it letter by letter: between dollar signs it would be mathematics."""
    return text.replace("$", r"\$")


def label_axes(axes: Axes, x: str, y: str) -> None:
    """Names the axes and gives them the look that all figures share."""
    axes.set_xlabel(x, fontsize=12)
    axes.set_ylabel(y, fontsize=12)
    axes.tick_params(labelsize=11)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
