"""Figures of the experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fastat.report import BLUE, DPI, GREEN, GREY, ORANGE, RED, label_axes
from fastat.theory.generalization.disappointment import LinearOutcome
from fastat.theory.generalization.fitting import WORSTS, Worst
from fastat.theory.generalization.linear_findings import (
    Linear,
    by_size,
    corrupted_at,
    fitted_rate,
    hr_at,
    interval,
    plain_at,
    sizes,
)
from fastat.theory.generalization.network_findings import Networks, at_noise, budget_name, by_budget, by_eps
from fastat.theory.generalization.networks import ATTACK
from fastat.theory.generalization.settings import Settings
from fastat.theory.generalization.statistics import mean_and_half_width
from fastat.theory.result import Picture

_CYCLE = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "^"), (RED, "D"), ("#CC79A7", "v"), ("#56B4E9", "P"))
_WORST_NAMES: dict[Worst, str] = {"support": "worst case of the distribution", "sample": "worst case of the sample"}
_FREQUENCY = "frequency of disappointment"


def draw(
    folder: Path,
    settings: Settings,
    rates: Linear,
    corruptions: Linear,
    optimism: Linear,
    networks: Networks,
) -> list[Picture]:
    """Writes the figures."""
    images = f"{settings.data}, {settings.model}"
    return [
        _against_r(folder / "disappointment-r.png", rates),
        _against_rn(folder / "disappointment-rn.png", rates),
        _against_alpha(folder / "disappointment-alpha.png", corruptions),
        _against_eps(folder / "optimism.png", optimism, networks, images),
        _curves(folder / "robust-overfitting.png", networks, images),
        _bound(folder / "bound-over-training.png", networks, images),
        _poisoning(folder / "poisoning.png", networks, images),
    ]


def _against_r(path: Path, rates: Linear) -> Picture:
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    axes = figure.subplots()
    for n, (color, marker) in zip(sizes(rates), _CYCLE, strict=False):
        outcomes = hr_at(rates, n, "support")
        _frequencies(axes, [o.cell.r for o in outcomes], outcomes, color, marker, f"n = {n}")
        if rate := fitted_rate(outcomes):
            r = np.linspace(0, outcomes[-1].cell.r, 100)
            axes.plot(r, np.exp(rate.constant - rate.slope * r * n), color=color, linewidth=1.5)
    _logarithmic(axes, rates)
    axes.set_xlim(left=0)
    label_axes(axes, "radius r of the HR loss (nats)", _FREQUENCY)
    axes.legend(fontsize=11, title="HR training", title_fontsize=11)
    figure.savefig(path, dpi=DPI)
    return Picture(
        path.name,
        "How often the loss out of sample exceeds the HR loss in the sample, against r: linear models, 95% intervals; "
        "lines: fits of exp(c - s r n); open triangles: upper limits where no sample disappointed.",
    )


def _against_rn(path: Path, rates: Linear) -> Picture:
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, worst in zip(panels, WORSTS, strict=True):
        end = max(o.cell.r * o.cell.n for o in rates)
        for turn, (n, (color, marker)) in enumerate(zip(sizes(rates), _CYCLE, strict=False)):
            outcomes = [plain_at(rates, n), *hr_at(rates, n, worst)]
            rate = fitted_rate(outcomes[1:])
            slope = f", slope {rate.slope:.2f}" if rate else ""
            place = [o.cell.r * n + 0.01 * end * turn for o in outcomes]  # beside each other
            _frequencies(axes, place, outcomes, color, marker, f"n = {n}{slope}")
        grid = np.linspace(0, end, 100)
        axes.plot(grid, np.exp(-grid), color=GREY, linestyle="--", linewidth=2, label=r"$e^{-rn}$: slope 1")
        _logarithmic(axes, rates)
        label_axes(axes, "r n (at 0: plain adversarial training)", _FREQUENCY if worst == "support" else "")
        axes.set_title(f"HR with the {_WORST_NAMES[worst]}", fontsize=13)
        axes.legend(fontsize=11, loc="lower left" if worst == "sample" else "upper right")
    figure.savefig(path, dpi=DPI)
    return Picture(
        path.name,
        "The same against r n. Left: mass may move to the largest loss of the distribution's support, as in the "
        "theorem. Right: to the largest loss of the sample only, as in training on batches.",
    )


def _against_alpha(path: Path, corruptions: Linear) -> Picture:
    figure = Figure(figsize=(12, 5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    fraction, n = corruptions[0].cell.fraction, corruptions[0].cell.n
    r_n = corruptions[0].cell.r * n
    titles = {"hide": "hardest points replaced by the easiest", "flip": "labels flipped"}
    for axes, (corruption, title) in zip(panels, titles.items(), strict=True):
        for worst, (color, marker) in zip(WORSTS, _CYCLE, strict=False):
            outcomes = corrupted_at(corruptions, corruption, worst)
            alphas, values = [o.cell.alpha for o in outcomes], [o.frequency for o in outcomes]
            axes.errorbar(alphas, values, _reach(outcomes), label=_WORST_NAMES[worst], **_style(color, marker))
        axes.axvline(fraction, color=GREY, linestyle=":", linewidth=2, label=f"corrupted: {fraction:.0%}")
        axes.axhline(math.exp(-r_n), color=GREY, linestyle="--", linewidth=1.5, label=rf"$e^{{-rn}}$, r n = {r_n:g}")
        axes.set_ylim(-0.03, 1.03)
        axes.set_title(f"{fraction:.0%} corrupted: {title}", fontsize=13)
        label_axes(axes, r"$\alpha$ of the HR loss", _FREQUENCY if corruption == "hide" else "")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(lines, names, fontsize=11, loc="outside lower center", ncols=4)
    figure.savefig(path, dpi=DPI)
    return Picture(
        path.name,
        f"How often the loss out of sample exceeds the HR loss of a corrupted sample, against alpha: linear models, "
        f"n = {n}, 95% intervals.",
    )


def _against_eps(path: Path, optimism: Linear, networks: Networks, images: str) -> Picture:
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (n, curve), (color, marker) in zip(by_size(optimism).items(), _CYCLE, strict=False):
        reach = [1.96 * o.optimism_error for o in curve]
        radii = [o.cell.problem.eps for o in curve]
        left.errorbar(radii, [o.optimism for o in curve], reach, label=f"n = {n}", **_style(color, marker))
    left.legend(fontsize=11, loc="upper center", ncols=4, columnspacing=1.2)
    left.set_title("linear models", fontsize=13)
    label_axes(left, r"$\epsilon$ of training and test (l2)", "loss out of sample minus training loss (nats)")
    groups = by_eps(networks)
    spread = [mean_and_half_width([o.optimism for o in group]) for group in groups.values()]
    right.errorbar(list(groups), [m for m, _ in spread], [_drawn(half) for _, half in spread], **_style(RED, "s"))
    right.set_title(f"networks ({images})", fontsize=13)
    label_axes(
        right, r"$\epsilon$ of training and test (linf, pixels in [0, 1])", "test loss minus training loss (nats)"
    )
    right.set_ylim(bottom=0)
    left.set_ylim(0, 1.2 * left.get_ylim()[1])  # the legend above the curves
    right.xaxis.set_major_locator(MaxNLocator(5))
    figure.savefig(path, dpi=DPI)
    return Picture(
        path.name,
        "The optimism of plain adversarial training against eps: mean and its 95% interval over samples (left) and "
        "seeds (right).",
    )


def _curves(path: Path, networks: Networks, images: str) -> Picture:
    noises = sorted({o.cell.label_noise for o in networks})
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(1, len(noises), sharey=True)
    for axes, noise in zip(panels, noises, strict=True):
        groups = by_budget(at_noise(networks, noise))
        most = max((alpha, r) for alpha, r in groups if r == 0)  # the largest alpha stands for its kind
        trainings = {key: group for key, group in groups.items() if key[0] == 0 or key == most}
        for ((alpha, r), group), (color, _) in zip(trainings.items(), _CYCLE, strict=False):
            epochs, values = group[0].epochs, np.mean([o.robust for o in group], 0)
            axes.plot(epochs, values, color=color, linewidth=2, label=budget_name(alpha, r))
            best = int(values.argmax())
            axes.plot(epochs[best], values[best], marker="*", markersize=15, color=color, markeredgecolor="black")
            axes.plot(epochs[-1], values[-1], marker="o", markersize=8, color=color, markeredgecolor="black")
        axes.set_title(f"{images}: {_noise_name(noise)}", fontsize=13)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        label_axes(axes, "epoch", f"robust test accuracy ({ATTACK.upper()})" if noise == noises[0] else "")
        axes.legend(fontsize=11, loc="lower right")
    figure.savefig(path, dpi=DPI)
    seeds = len(by_budget(at_noise(networks, noises[0]))[(0.0, 0.0)])
    return Picture(
        path.name, f"Robust test accuracy over the training, mean of {seeds} seeds; star: best epoch, dot: last epoch."
    )


def _bound(path: Path, networks: Networks, images: str) -> Picture:
    noises = sorted({o.cell.label_noise for o in networks})
    groups = by_budget(at_noise(networks, noises[0]))
    strongest_r = max((key for key in groups if key[0] == 0), key=lambda key: key[1])
    everything = next(key for key in groups if min(key) > 0)
    chosen = [(0.0, 0.0), strongest_r, everything]
    figure = Figure(figsize=(13, 4 * len(noises) + 0.4), layout="constrained")
    grid = figure.subplots(len(noises), len(chosen), sharex=True, sharey="row", squeeze=False)
    for row, noise in zip(grid, noises, strict=True):
        highest = 0.0
        for axes, key in zip(row, chosen, strict=True):
            group = by_budget(at_noise(networks, noise))[key]
            for name, line, color in (("in_sample", "-", BLUE), ("test", "--", RED)):
                values = np.array([getattr(o, name) for o in group])
                axes.plot(group[0].epochs, values.mean(0), line, color=color, linewidth=2.2, label=_LOSS_NAMES[name])
                axes.fill_between(group[0].epochs, values.min(0), values.max(0), color=color, alpha=0.2, linewidth=0)
            axes.set_title(f"{budget_name(*key)}, {_noise_name(noise)}", fontsize=12)
            highest = max(
                highest, max(np.mean([o.test for o in group], 0)), max(np.mean([o.in_sample for o in group], 0))
            )
            label_axes(axes, "epoch" if noise == noises[-1] else "", "loss (nats)" if key == chosen[0] else "")
        row[0].set_ylim(0, 1.05 * highest)
    grid[0, 0].legend(fontsize=11)
    figure.savefig(path, dpi=DPI)
    return Picture(
        path.name,
        f"HR loss of the training set and test loss over the training ({images}); mean over seeds, bands from the "
        "smallest to the largest. The bound holds where the solid line is above the dashed one.",
    )


def _poisoning(path: Path, networks: Networks, images: str) -> Picture:
    noise = max(o.cell.label_noise for o in networks)
    groups = by_budget(at_noise(networks, noise))
    names = [budget_name(*key).replace("HR ", "").replace(", ", "\n") for key in groups]
    place = np.arange(len(groups))
    figure = Figure(figsize=(13, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, shift, color, marker in (("in_sample", -0.12, BLUE, "o"), ("test", 0.12, RED, "s")):
        last = [mean_and_half_width([getattr(o, name)[-1] for o in group]) for group in groups.values()]
        style = _style(color, marker) | {"linestyle": "none"}
        left.errorbar(
            place + shift, [m for m, _ in last], [_drawn(h) for _, h in last], label=_LOSS_NAMES[name], **style
        )
    label_axes(left, "", "loss (nats)")
    for name, shift, color, marker in (("clean", -0.12, GREEN, "^"), ("robust", 0.12, ORANGE, "D")):
        last = [mean_and_half_width([getattr(o, name)[-1] for o in group]) for group in groups.values()]
        style = _style(color, marker) | {"linestyle": "none"}
        shown = "clean" if name == "clean" else ATTACK.upper()
        right.errorbar(place + shift, [m for m, _ in last], [_drawn(half) for _, half in last], label=shown, **style)
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_ylim(top=1.02)
    label_axes(right, "", "test accuracy")
    for axes, title in ((left, "what HR promises: a bound"), (right, "and the accuracies")):
        axes.set_ylim(bottom=0)
        axes.set_xticks(place, names, fontsize=11)
        axes.set_title(f"{title} ({images}, {_noise_name(noise)})", fontsize=13)
        axes.legend(fontsize=11, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    figure.savefig(path, dpi=DPI)
    return Picture(
        path.name,
        "Trained networks with poisoned labels: HR loss of the training set, poison included, against the loss of test "
        "images with right labels, and test accuracies; mean over seeds with its 95% interval.",
    )


_LOSS_NAMES = {"in_sample": "HR loss, training set", "test": "adversarial loss, test images"}


def _frequencies(
    axes: Axes, x: Sequence[float], outcomes: Sequence[LinearOutcome], color: str, marker: str, label: str
) -> None:
    """Points with intervals; an upper limit instead where no sample disappointed, which has no logarithm."""
    seen = [o.disappointed > 0 for o in outcomes]
    style = _style(color, marker) | {"linestyle": "none"}
    some = [o for o, there in zip(outcomes, seen, strict=True) if there]
    axes.errorbar(np.asarray(x)[seen], [o.frequency for o in some], _reach(some), label=label, **style)
    none = [(place, interval(o)[1]) for place, o, there in zip(x, outcomes, seen, strict=True) if not there]
    axes.plot([a for a, _ in none], [b for _, b in none], "v", markersize=8, markerfacecolor="none", color=color)


def _logarithmic(axes: Axes, rates: Linear) -> None:
    axes.set_yscale("log")
    axes.set_ylim(0.4 / rates[0].cell.samples, 1.3)


def _reach(outcomes: Sequence[LinearOutcome]) -> list[list[float]]:
    """Lengths of the error bars below and above; rounding makes some -1e-17."""
    ends = [(o.frequency, *interval(o)) for o in outcomes]
    return [[max(0.0, f - low) for f, low, _ in ends], [max(0.0, high - f) for f, _, high in ends]]


def _drawn(half: float) -> float:
    """One seed has no interval."""
    return half if math.isfinite(half) else 0.0


def _style(color: str, marker: str) -> dict[str, Any]:
    return {"color": color, "marker": marker, "markersize": 7, "linewidth": 2, "capsize": 4}


def _noise_name(noise: float) -> str:
    return f"{noise:.0%} wrong labels" if noise > 0 else "right labels"
