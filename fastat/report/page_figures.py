"""The drawings of a report page: runs side by side, as SVG to stand in HTML."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fastat.report.results import eps_axis
from fastat.report.run_figures import BLUE, GREEN, GREY, ORANGE, RED, drawable, label_axes, literal

_COLORS = (BLUE, RED, GREEN, ORANGE, "#CC79A7", "#56B4E9", "#000000")  # Okabe and Ito's, without the yellow
_DASHES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_MOST_CLASSES = 20
_MOST_LETTERS = 18
_ROBUST, _CLEAN = "#0072B2", "#A6CBE3"

Numbered = Sequence[tuple[int, str, Any]]
"""What is known of some of the runs, beside the number of each among all, which it is drawn by, and its name."""


def curves(histories: Numbered) -> Markup:
    """Training loss, clean and PGD-20 accuracy on the validation images, and learning rate, by epoch."""
    figure = Figure(figsize=(12, 7.5), layout="constrained")
    (loss, rate), (clean, robust) = figure.subplots(2, 2)
    for number, _, history in histories:
        epochs = [row["epoch"] for row in history]
        style = _style(number, len(epochs))
        loss.plot(epochs, drawable(row["train"]["loss"] for row in history), **style)
        rate.plot(epochs, drawable(row["lr"] for row in history), **style)
        if history[0]["val"]:
            clean.plot(epochs, [row["val"]["clean"] for row in history], **style)
            robust.plot(epochs, [row["val"]["pgd-20"] for row in history], **style)
    label_axes(loss, "epoch", "training objective (nats)")
    label_axes(rate, "epoch", "learning rate at the epoch's end")
    label_axes(clean, "epoch", "clean accuracy, validation")
    label_axes(robust, "epoch", "PGD-20 accuracy, validation")
    for axes in (clean, robust):
        _percent(axes)
    for axes in (loss, rate, clean, robust):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss.set_ylim(bottom=0)
    _legend(figure, histories)
    return _svg(figure, "curves", "Training loss, learning rate, clean and PGD-20 validation accuracy by epoch")


def robustness(results: Numbered) -> Markup:
    """Accuracy against the radius of the attack, a panel for each norm."""
    norms = sorted({result["norm"] for *_, result in results})
    figure = Figure(figsize=(max(7.5, 6 * len(norms)), 5), layout="constrained")
    panels = figure.subplots(1, len(norms), squeeze=False)[0]
    for axes, norm in zip(panels, norms, strict=True):
        of_norm = [result for *_, result in results if result["norm"] == norm]
        unit, label = eps_axis(norm, of_norm[0]["eps"])
        for number, _, result in results:
            if result["norm"] == norm:
                radii = [unit * eps for eps in result["curve"]["eps"]]
                axes.plot(radii, result["curve"]["accuracy"], **_style(number, 1))
        for eps in sorted({result["eps"] for result in of_norm}):
            axes.axvline(unit * eps, color=GREY, linestyle="--", linewidth=1)
        _percent(axes)
        axes.set_xlim(left=0)
        label_axes(axes, label, f"accuracy under {literal(of_norm[0]['curve']['attack']).upper()}")
    _legend(figure, results)
    return _svg(figure, "robustness", "Accuracy against the radius of the attack")


def by_class(number: int, name: str, result: Mapping[str, Any]) -> Markup:
    """Clean and robust accuracy of each class, or of the twenty least robust ones, as bars.

    Args:
        number: of the run among all that the page shows.
        name: of the run.
        result: its results.json.
    """
    robust_name = list(result["accuracy"])[-1]
    accuracy = result["by_class"]["accuracy"]
    rows = [
        (_short(label), clean, robust)
        for label, clean, robust in zip(result["classes"], accuracy["clean"], accuracy[robust_name], strict=True)
        if clean is not None
    ]
    if len(rows) > _MOST_CLASSES:
        rows = sorted(rows, key=lambda row: row[2])[:_MOST_CLASSES]
    figure = Figure(figsize=(4.4, 1.1 + 0.3 * len(rows)), layout="constrained")
    axes = figure.subplots()
    places = list(range(len(rows)))
    axes.barh(places, [clean for _, clean, _ in rows], color=_CLEAN, label="clean", height=0.72)
    axes.barh(places, [robust for *_, robust in rows], color=_ROBUST, label="under attack", height=0.4)
    axes.set_yticks(places, [literal(label) for label, *_ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    label_axes(axes, f"accuracy ({literal(robust_name).upper().replace('X', 'x')})", "")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2, fontsize=10, frameon=False)
    return _svg(figure, f"classes{number}", f"Clean and robust accuracy by class, {name}")


def _short(label: str) -> str:
    """On one line, and cut where it would leave the bars no room."""
    line = " ".join(label.split())
    return line if len(line) <= _MOST_LETTERS else f"{line[: _MOST_LETTERS - 1]}…"


def _style(number: int, points: int) -> dict[str, Any]:
    marker = _MARKERS[number % len(_MARKERS)]
    return {
        "color": _COLORS[number % len(_COLORS)],
        "linestyle": _DASHES[number // len(_COLORS) % len(_DASHES)],
        "marker": marker if points < 16 else None,
        "markersize": 5,
        "linewidth": 1.8,
    }


def _legend(figure: Figure, runs: Numbered) -> None:
    handles = [Line2D([], [], **_style(number, 1)) for number, *_ in runs]
    # to matplotlib an underscore at the start means "not in the legend"
    names = ["\u200b" + literal(name) for _, name, _ in runs]
    columns = min(len(names), 3)
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=10, frameon=False)


def _percent(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _svg(figure: Figure, key: str, text: str) -> Markup:
    """The drawing as an element: text that a browser sets, the same bytes for the same drawing.

    Args:
        figure: the drawing.
        key: starts the ids inside, which matplotlib numbers from 1 in every drawing and a page may have only once.
        text: what a screen reader says.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fastat", "font.family": "sans-serif"}):
        figure.savefig(stream, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    drawn = stream.getvalue()
    for start in (' id="', ' xlink:href="#', "url(#"):
        drawn = drawn.replace(start, f"{start}{key}-")
    return Markup('<svg role="img" aria-label="{}"').format(text) + Markup(drawn[drawn.index("<svg") + len("<svg") :])
