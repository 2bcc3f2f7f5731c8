"""study.md: tables, and sentences that are counted from the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from experiments.study.cells import (
    ACCURACY_ATTACK,
    ARMS,
    BENIGN,
    BY_R,
    DATASETS,
    LOSS_ATTACK,
    NOISES,
    PLAIN,
    RS,
    WIDTHS,
    Arm,
    Cell,
    setting_of,
)
from experiments.study.figures import panel_title
from experiments.study.measure import in_sample
from experiments.study.prose import CERTIFICATE, CHOICES, COUNTED, KEPT, LENGTH, OVERFITTING, PROMISE
from experiments.study.summary import Outcome, Spread, by_cell, clean, epochs, final, robust, test_loss
from fastat.objectives import certificate
from fastat.report import format_eps
from fastat.support.files import write_bytes

Cells = dict[Cell, list[Outcome]]


def write_text(
    outcomes: Sequence[Outcome], problems: Sequence[str], quick: bool, path: Path, pictures: Sequence[Path]
) -> None:
    """Writes the report about these runs; pictures lie beside it."""
    cells = by_cell(outcomes)
    parts = [
        "# HR and BAT training, measured\n\nWritten by `python -m experiments.study`"
        + (" --quick: a trial of the machinery, not a measurement." if quick else ".")
        + " Numbers are means over the seeds, in brackets the smallest and the largest; a seed draws the training"
        " images, the flipped labels, the weights and the order. The numbers of every run are in `study.json`.",
        _settings(cells, quick),
        _promise(cells),
        _length(cells),
        _width(cells),
        _overfitting(cells, quick),
        _benign(cells),
        _accuracies(cells),
        "\n\n".join(f"![{picture.stem}]({picture.name})" for picture in pictures),
    ]
    if problems:
        parts.insert(1, "Not measured:\n" + "\n".join(f"- {problem}" for problem in problems))
    write_bytes(path, ("\n\n".join(part for part in parts if part) + "\n").encode())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(spread: Spread) -> str:
    """1.23 (1.10 to 1.31)"""
    return f"{spread.mean:.3f} ({spread.low:.3f} to {spread.high:.3f})"


def percent(spread: Spread) -> str:
    """12.3% (11.0% to 13.1%)"""
    return f"{spread.mean:.1%} ({spread.low:.1%} to {spread.high:.1%})"


def kept(margins: Sequence[float]) -> str:
    """In how many runs the in-sample loss was at least the test loss."""
    return f"{sum(margin >= 0 for margin in margins)} of {len(margins)}"


def _settings(cells: Cells, quick: bool) -> str:
    rows = []
    for data in DATASETS:
        runs = [outcome for cell, found in cells.items() if cell.data == data for outcome in found]
        if runs:
            setting = setting_of(data, quick)
            training = setting.training
            rows.append([
                data,
                format_eps(training["eps"]),
                str(training["train_size"]),
                str(setting.test_size),
                str(training["epochs"]),
                f"{WIDTHS[data]}",
                str(len(runs)),
                f"{sum(outcome.seconds for outcome in runs) / 60:.0f}",
            ])  # fmt: skip
    head = ["data", "linf eps", "training images", "test images", "epochs", "width", "runs", "minutes"]
    training = setting_of(DATASETS[0], quick).training
    return (
        "## What was run\n\n" + table(head, rows) + f"\n\nsmall_cnn, PGD-{training['attack_steps']} on batches of "
        f"{training['batch_size']}, SGD with momentum 0.9 and weight decay 5e-4, learning rate {training['lr']:g} "
        "divided by ten at half and at three quarters of the training, the schedule on which robust overfitting was "
        "described (Rice, Wong, Kolter 2020). No augmentation. HR in the order hd. Losses are measured under "
        f"{LOSS_ATTACK.upper()} (the largest loss of its iterates: a lower bound of the worst case), robust accuracy "
        f"under {ACCURACY_ATTACK.upper()}. {CHOICES}"
    )


def _promise(cells: Cells) -> str:
    rows = []
    for cell, found in _ordered(cells, _at_usual_width):
        margins = [outcome.margin(outcome.rows[-1]) for outcome in found]
        own, test = final(found, Outcome.own_loss), final(found, test_loss)
        rows.append(
            [
                *_place(cell),
                number(own),
                number(test),
                f"{own.mean - test.mean:+.3f}",
                kept(margins),
                percent(final(found, robust)),
                _certified(ARMS[cell.arm], cell.noise, found[0].n),
            ]
        )
    head = [
        "data",
        "flipped",
        "training",
        "training set: HR loss",
        "test loss",
        "difference",
        KEPT,
        "robust",
        "rate of the certificate",
    ]
    return "\n\n".join([PROMISE, table(head, rows), _counted(cells), _covered(cells), CERTIFICATE])


def _certified(arm: Arm, noise: float, n: int) -> str:
    if arm.r == 0:
        return "none: r = 0"
    if noise > arm.alpha:
        return "none: flipped > alpha"
    return f"1 - exp(-{arm.r * n:g}) = {certificate(n, arm.r):.6f}"


def _counted(cells: Cells) -> str:
    """How often the promise was kept at the end, by kind of training."""
    lines = []
    kinds = {
        "plain and BAT training": lambda arm: arm.protocol != "hr",
        "HR training": lambda arm: arm.protocol == "hr",
    }
    for data in DATASETS:
        for noise in NOISES:
            parts = []
            for kind, chosen in kinds.items():
                group = [
                    outcome
                    for cell, found in cells.items()
                    if (cell.data, cell.noise) == (data, noise) and _at_usual_width(cell) and chosen(ARMS[cell.arm])
                    for outcome in found
                ]
                if group:
                    blind = sum(outcome.margin(outcome.rows[-1]) >= 0 and not outcome.learned for outcome in group)
                    aside = f" ({blind} of them by networks that say little)" if blind else ""
                    parts.append(f"{kind} in {kept([run.margin(run.rows[-1]) for run in group])} runs{aside}")
            if parts:
                lines.append(f"- {panel_title(data, noise)}: {', '.join(parts)}.")
    return f"{COUNTED}\n\n" + "\n".join(lines)


def _length(cells: Cells) -> str:
    parts = []
    for data in DATASETS:
        found = [(cell, runs) for cell, runs in _ordered(cells, _at_usual_width) if cell.data == data]
        if found:
            head = ["data", "flipped", "training", *(f"epoch {epoch}" for epoch in epochs(found[0][1]))]
            rows = [
                [*_place(cell), *(kept([run.margin(row) for run, row in zip(runs, at, strict=True)]) for at in
                                  zip(*(run.rows for run in runs), strict=True))]
                for cell, runs in found
            ]  # fmt: skip
            parts.append(table(head, rows))
    return "\n\n".join([LENGTH, *parts]) if parts else ""


def _width(cells: Cells) -> str:
    few = {cell.arm for cell in cells if cell.data == "digits" and cell.width != WIDTHS["digits"]}
    rows = [
        [f"{cell.noise:.0%}", cell.arm, str(cell.width), number(final(found, Outcome.own_loss)),
         number(final(found, test_loss)),
         kept([outcome.margin(outcome.rows[-1]) for outcome in found]),
         percent(final(found, robust))]
        for cell, found in sorted(
            _ordered(cells, lambda cell: cell.data == "digits" and cell.arm in few),
            key=lambda item: (item[0].noise, list(ARMS).index(item[0].arm), item[0].width),
        )
    ]  # fmt: skip
    head = ["flipped", "training", "width", "training set: HR loss", "test loss", KEPT, "robust"]
    return "## Over the width of the network (digits)\n\n" + table(head, rows) if rows else ""


def _overfitting(cells: Cells, quick: bool) -> str:
    rows = [
        [*_place(cell), percent(Spread(tuple(max(row["robust"] for row in outcome.rows) for outcome in found))),
         percent(final(found, robust)),
         percent(Spread(tuple(outcome.gap for outcome in found))),
         f"{_rise(found):+.3f}", f"{_error(found, quick):.1%}"]
        for cell, found in _beside_plain(cells, BY_R)
    ]  # fmt: skip
    head = ["data", "flipped", "training", "best robust accuracy", "final", "gap", "final test loss less its lowest",
            "standard error"]  # fmt: skip
    return f"{OVERFITTING}\n\n{table(head, rows)}" if rows else ""


def _rise(found: Sequence[Outcome]) -> float:
    rises = [run.rows[-1]["test loss"] - min(row["test loss"] for row in run.rows) for run in found]
    return sum(rises) / len(rises)


def _error(found: Sequence[Outcome], quick: bool) -> float:
    """Of one robust accuracy, over the draw of the test images."""
    accuracy = final(found, robust).mean
    return math.sqrt(accuracy * (1 - accuracy) / setting_of(found[0].cell.data, quick).test_size)


def _benign(cells: Cells) -> str:
    rows = [
        [*_place(cell), percent(final(found, clean)),
         percent(final(found, robust))]
        for cell, found in _beside_plain(cells, BENIGN)
    ]  # fmt: skip
    head = ["data", "flipped", "training", "clean", "robust"]
    return "## Benign adversarial training (gamma 1)\n\n" + table(head, rows) if rows else ""


def _accuracies(cells: Cells) -> str:
    rows = [
        [*_place(cell), str(cell.width), percent(final(found, clean)),
         percent(final(found, robust)), str(len(found))]
        for cell, found in _ordered(cells, lambda cell: True)
    ]  # fmt: skip
    head = ["data", "flipped", "training", "width", "clean", "robust", "seeds"]
    return "## Test accuracy of everything\n\n" + table(head, rows) if rows else ""


def _covered(cells: Cells) -> str:
    """From which r on the HR loss would have covered the test loss of plainly trained networks."""
    lines = []
    for cell, found in _ordered(cells, lambda cell: cell.arm == PLAIN.name and _at_usual_width(cell)):
        enough = [r for r in RS if all(run.rows[-1][in_sample(0.0, r)] >= run.rows[-1]["test loss"] for run in found)]
        lines.append(
            f"- {panel_title(cell.data, cell.noise)}: {f'{enough[0]:g}' if enough else f'none up to {RS[-1]:g}'}."
        )
    measured = ", ".join(f"{r:g}" for r in RS)
    return (
        "For networks of plain training, the smallest r, alpha = 0, at which the HR loss of the training set was at "
        f"least the test loss for every seed (measured: {measured}):\n" + "\n".join(lines)
    )


def _at_usual_width(cell: Cell) -> bool:
    return cell.width == WIDTHS[cell.data]


def _beside_plain(cells: Cells, arms: Sequence[Arm]) -> list[tuple[Cell, list[Outcome]]]:
    """The cells of these arms and of plain training, wherever the first of the arms was run."""
    names = {arm.name for arm in (PLAIN, *arms)}
    places = {(cell.data, cell.noise) for cell in cells if cell.arm == arms[0].name}
    return _ordered(
        cells, lambda cell: cell.arm in names and (cell.data, cell.noise) in places and _at_usual_width(cell)
    )


def _ordered(cells: Cells, chosen: Callable[[Cell], bool]) -> list[tuple[Cell, list[Outcome]]]:
    """The chosen cells by dataset, flipped labels, width, arm."""
    names = list(ARMS)
    found = [cell for cell in cells if chosen(cell)]
    found.sort(key=lambda cell: (DATASETS.index(cell.data), cell.noise, cell.width, names.index(cell.arm)))
    return [(cell, cells[cell]) for cell in found]


def _place(cell: Cell) -> list[str]:
    return [cell.data, f"{cell.noise:.0%}", cell.arm]
