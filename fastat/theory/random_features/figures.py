"""Risks of random features: theory as lines, simulations as points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from fastat.report import BLUE, DPI, GREEN, GREY, ORANGE, RED, label_axes

_COLORS = (BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9")
_INTERVAL = 1.96  # standard errors
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
_FEATURES = r"features per dimension, $\psi_1 = N/d$"
_RISK = r"adversarial risk (units of $\mathrm{Var}\,\langle b, x\rangle$)"

Rows = Sequence[Mapping[str, Any]]


def plot_features(path: Path, curves: Rows, simulated: Rows, settings: Mapping[str, Any]) -> None:
    """Adversarial risk against psi1, a curve for each radius; peak and minimum marked, the rise as an arrow."""
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    for color, curve in zip(cycle(_COLORS), curves, strict=False):
        label = rf"$\epsilon$ = {curve['eps']:g}"
        axes.plot(curve["psi1_values"], curve["adversarial_risk"], color=color, linewidth=2.2, label=label)
        _points(axes, simulated, "psi1", "adversarial_risk", color, ("eps", curve["eps"]))
        if curve["peak"] is not None:
            axes.plot(curve["peak"], curve["peak_risk"], "^", color=color, markersize=11, markeredgecolor="black")
            if curve["rise"] is not None:
                place = (curve["minimum"], curve["minimum_risk"])
                axes.plot(*place, "v", color=color, markersize=11, markeredgecolor="black")
                end = (curve["psi1_values"][-1], curve["adversarial_risk"][-1])
                _beside(axes, f"+{curve['rise']:.2f}", end, color)
    axes.plot([], [], "^", color="white", markeredgecolor="black", markersize=10, label="peak")
    axes.plot(
        [],
        [],
        "v",
        color="white",
        markeredgecolor="black",
        markersize=10,
        label="minimum beyond it, and the rise after it",
    )
    axes.errorbar([], [], [], fmt="o", color=GREY, capsize=4, label=f"simulated, d = {settings['d'][-1]}")
    _logarithmic(axes)
    axes.axvline(settings["psi2"], color=GREY, linestyle=":", linewidth=1.5)
    axes.annotate(
        r"$\psi_1 = \psi_2$",
        (settings["psi2"], 0.01),
        xycoords=("data", "axes fraction"),
        fontsize=11,
        xytext=(4, 2),
        textcoords="offset points",
        color=GREY,
    )
    label_axes(axes, _FEATURES, _RISK)
    axes.legend(fontsize=11)
    axes.set_title(_title(settings), fontsize=13)
    figure.savefig(path, dpi=DPI)


def plot_trained(path: Path, curves: Rows, simulated: Rows, settings: Mapping[str, Any]) -> None:
    """Standard risk and norm of the Jacobian against psi1."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    figure.suptitle(_title(settings), fontsize=13)
    panels = (("standard_risk", "standard risk"), ("jacobian_norm", r"$\|J\theta\|$, norm of the gradient to x"))
    for axes, (name, text) in zip(figure.subplots(1, 2), panels, strict=True):
        for color, curve in zip(cycle(_COLORS), curves, strict=False):
            label = rf"$\epsilon$ = {curve['eps']:g}"
            axes.plot(curve["psi1_values"], curve[name], color=color, linewidth=2.2, label=label)
            _points(axes, simulated, "psi1", name, color, ("eps", curve["eps"]))
        _logarithmic(axes)
        label_axes(axes, _FEATURES, text)
        axes.legend(fontsize=11)
    figure.savefig(path, dpi=DPI)


def plot_radius(path: Path, curves: Rows, simulated: Rows, settings: Mapping[str, Any]) -> None:
    """Adversarial risk and norm of the Jacobian against eps, the critical radius marked."""
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    figure.suptitle(_title(settings), fontsize=13)
    panels = (("adversarial_risk", _RISK), ("jacobian_norm", r"$\|J\theta\|$, norm of the gradient to x"))
    for axes, (name, text) in zip(figure.subplots(1, 2), panels, strict=True):
        for color, curve in zip(cycle(_COLORS), curves, strict=False):
            label = rf"$\psi_1$ = {curve['psi1']:g}"
            axes.plot(curve["eps_values"], curve[name], color=color, linewidth=2.2, label=label)
            axes.axvline(curve["eps_c"], color=color, linestyle="--", linewidth=1.5)
            _points(axes, simulated, "eps", name, color, ("psi1", curve["psi1"]))
        axes.axvline(
            float("nan"), color=GREY, linestyle="--", linewidth=1.5, label=r"$\epsilon_c$: $\theta = 0$ beyond"
        )
        axes.set_ylim(bottom=0)
        label_axes(axes, r"radius of the training and of the attack, $\epsilon$", text)
        axes.legend(fontsize=11)
    figure.savefig(path, dpi=DPI)


def _points(axes: Axes, rows: Rows, x: str, name: str, color: str, where: tuple[str, float]) -> None:
    chosen = [row for row in rows if row[where[0]] == where[1]]
    means = [row[name]["mean"] for row in chosen]
    errors = [_INTERVAL * row[name]["standard_error"] for row in chosen]
    places = [row[x] for row in chosen]
    axes.errorbar(places, means, errors, fmt="o", color=color, capsize=4, markersize=5, zorder=3)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_xticks(_TICKS)
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())


def _title(settings: Mapping[str, Any]) -> str:
    return (
        r"robust random-features regression, $\ell_2$ attacks, "
        rf"$\psi_2 = n/d$ = {settings['psi2']:g}, noise $\tau$ = {settings['tau']:g}"
    )


def _beside(axes: Axes, text: str, place: tuple[float, float], color: str) -> None:
    axes.annotate(text, place, (7, -4), textcoords="offset points", fontsize=12, fontweight="bold", color=color)
