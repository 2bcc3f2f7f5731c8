"""Time against batch size, one figure for each network and precision of a run with the suite pgd."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.contests.contest import OURS
from bench.peers import attackers
from bench.peers.attackers import ALONE, TEXTBOOK
from bench.peers.libraries import PEERS
from bench.reports.attack_table import best, has_variants
from bench.reports.layout import Case
from bench.reports.ticks import plain_log_ticks, ticks_at
from fastat.report import BLUE, DPI, GREEN, GREY, ORANGE, RED, label_axes

LEAST_SIZES = 3
PURPLE, SKY = "#CC79A7", "#56B4E9"
RIVALS = dict(zip(PEERS, (GREEN, ORANGE, SKY, PURPLE, RED), strict=True))


@dataclass(frozen=True)
class Line:
    """One contender's time per image against the batch size; ``fastest``: of its variants, else as documented."""

    label: str
    attacker: str
    fastest: bool
    style: dict[str, Any]


LINES = (
    *(
        Line(name, name, True, {"color": color, "marker": marker})
        for (name, color), marker in zip(RIVALS.items(), "sDv^P", strict=True)
    ),
    Line("textbook loop, plain", TEXTBOOK, False, {"color": GREY, "marker": "x", "linestyle": ":"}),
    Line("textbook loop", TEXTBOOK, True, {"color": GREY, "marker": "x"}),
    Line("fastat, plain", OURS, False, {"color": BLUE, "marker": "o", "linestyle": ":"}),
    Line("fastat", OURS, True, {"color": BLUE, "marker": "o", "linewidth": 2.8}),
    Line("model alone (floor)", ALONE, True, {"color": "black", "linestyle": "--"}),
)


def draw_batches(run: dict[str, Any], folder: Path, stem: str) -> list[Path]:
    """Draws what the run has at three batch sizes or more; returns the pictures."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in run["cases"]:
        if has_variants(case):
            settings = case["settings"]
            groups.setdefault((settings["network"], settings["precision"]), []).append(case)
    written = []
    for (network, precision), cases in groups.items():
        if len(cases) >= LEAST_SIZES:
            path = folder / f"{stem}-batches-{network}-{precision}.png"
            _draw(path, f"PGD-10 on {network}, {precision}, {run['environment']['device']}", cases)
            written.append(path)
    return written


def _draw(path: Path, title: str, cases: Sequence[Case]) -> None:
    """Milliseconds per image on the left; on the right, the same over the floor."""
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    figure.suptitle(title, fontsize=14)
    left, right = figure.subplots(1, 2)
    cases = sorted(cases, key=lambda case: case["settings"]["batch"])
    variants = set.intersection(*({attackers.parse(name).levers for name in case["contenders"]} for case in cases))
    for line in LINES:
        points = [(case["settings"]["batch"], *found) for case in cases if (found := _point(case, line, variants))]
        if points:
            batches, milliseconds, over_floor = zip(*points, strict=True)
            style = {"linewidth": 1.8, "markersize": 7, "label": line.label, **line.style}
            left.plot(batches, milliseconds, **style)
            right.plot(batches, over_floor, **style)
    for axes in (left, right):
        _batch_axis(axes, [case["settings"]["batch"] for case in cases])
    low, high = left.get_ylim()
    if high > 3 * low:
        plain_log_ticks(left)
    label_axes(left, "batch size", "time per image (ms)")
    label_axes(right, "batch size", "time / time of the model alone")
    handles, labels = left.get_legend_handles_labels()
    pulled = {lever for variant in variants for lever in variant}
    levers = [lever for lever in ("frozen", "channels_last", "compile") if lever in pulled]
    note = f"the fastest variant of each\n({', '.join(['plain', *levers])}"
    note += ",\nfastat and floor also as a graph)" if "graph" in pulled else ")"
    note += "\ndotted: as documented"
    figure.legend(
        handles[::-1], labels[::-1], loc="outside right center", fontsize=11, title=note, title_fontsize=11,
        frameon=False,
    )  # fmt: skip
    figure.savefig(path, dpi=DPI)


def _point(case: Case, line: Line, variants: set[tuple[str, ...]]) -> tuple[float, float] | None:
    """Milliseconds per image, and times the floor; of the variants that every batch size was measured in."""
    allowed = variants if line.fastest else {()}
    name = best(case, lambda c: c.attacker == line.attacker and c.levers in allowed)
    floor = best(case, lambda c: c.attacker == ALONE and c.levers in variants)
    if name is None or floor is None:
        return None
    contender = case["contenders"][name]
    ratio = contender["ratio"][1] / case["contenders"][floor]["ratio"][1]
    return 1e3 * contender["median_s"] / case["settings"]["batch"], ratio


def _batch_axis(axes: Axes, batches: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    ticks_at(axes, batches)
