"""What the experiment has found, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fastat.theory.cgro import figures
from fastat.theory.cgro.networks import CORNERS
from fastat.theory.cgro.runs import phase_diagram
from fastat.theory.cgro.stages import CLEAN_AT_LEAST, ROBUST_AT_MOST
from fastat.theory.result import Finding, Picture, Result, Verdict

_SAME = 0.01  # accuracies of f and f_S that count as the same
_NEAR_ONE = 0.02  # how far a fitted slope may be from 1
_STILL = 0.15  # the share of its growth up to which the mean V counts as still
_MOST = 0.9  # the share of seeds that reproduces a claim


@dataclass(frozen=True)
class CgroResult(Result):
    """The outcome; each list holds a dict a cell, with the cell's settings and what was found.

    Attributes:
        memorizers: networks and their memorizers, by dataset and seed.
        counts: extra parameters against points and dimension, by dataset.
        widths: adversarially trained networks, by dataset, width and seed.
        dynamics: runs on patch data, by setting and seed.
        over_sigma, over_size: runs of the phase diagrams.
        trajectories: one run of each setting step by step.
    """

    experiment: ClassVar[str] = "cgro"
    title: ClassVar[str] = "Clean generalization and robust overfitting (Li and Li, 2025)"

    settings: Any
    memorizers: list[dict[str, Any]]
    counts: list[dict[str, Any]]
    widths: list[dict[str, Any]]
    dynamics: list[dict[str, Any]]
    over_sigma: list[dict[str, Any]]
    over_size: list[dict[str, Any]]
    trajectories: list[dict[str, Any]]

    def findings(self) -> list[Finding]:
        """The memorizer, its bill, the trained networks, the runs on patch data; and what was not tested."""
        found = []
        for name in self.settings.data:
            of_data = [row for row in self.memorizers if row["data"] == name]
            counts = [row for row in self.counts if row["data"] == name]
            widths = [row for row in self.widths if row["data"] == name]
            found += [_certificate(name, of_data), _clean(name, of_data), _robust(name, of_data)]
            found += [_bill(name, counts), _over_width(name, widths)]
        for delta, sigma in self.settings.dynamics:
            runs = [row for row in self.dynamics if (row["delta"], row["sigma"]) == (delta, sigma)]
            found += [_shown(delta, sigma, runs), _staged(delta, sigma, runs)]
        found += [
            _where(self.over_sigma, "sigma"),
            _where(self.over_size, "n"),
            Finding(
                "a robust classifier needs a network whose size is exponential in the dimension for some data",
                "not tested",
                "a lower bound over all networks: no training and no construction can show it, and none was tried",
            ),
        ]
        return found

    def plot(self, folder: Path) -> list[Picture]:
        """Draws what is in the lists."""
        pictures = []
        for number, row in enumerate(self.trajectories):
            name = f"dynamics-{number + 1}.png"
            figures.plot_dynamics(folder / name, row)
            text = (
                f"Adversarial training on patch data, delta {row['delta']:g}, sigma {row['sigma']:g}, N {row['n']}: "
                "what the true feature and each sample's noise add to the output, the margins of the training samples' "
                "worst cases, and the accuracies. Stage 2 begins when some noise alone fits its sample (V_i = 1), "
                "stage 3 when every margin is 1."
            )
            pictures.append(Picture(name, text))
        figures.plot_phases(folder / "phases.png", self.over_sigma, self.over_size, self.settings.dynamics)
        pictures.append(
            Picture(
                "phases.png",
                "Where adversarial training on patch data generalizes clean and overfits robustly: the share of the "
                "seeds that do, and where none does, what most of them come to instead. Framed: the settings of the "
                "runs above.",
            )
        )
        drawn = (
            ("accuracies.png", figures.plot_bars, self.memorizers, "A network trained without attack, and the same "
             "network with a bump around each training image; the mean over seeds, and the lowest and highest."),
            ("widths.png", figures.plot_widths, self.widths, "Adversarially trained networks against width: the mean "
             "over seeds, and the lowest and highest."),
            ("parameters.png", figures.plot_counts, self.counts, "The nonzero parameters that memorizing adds, against "
             "the number of training images and their dimension (images enlarged pixel by pixel), with the power laws "
             "that fit them."),
        )  # fmt: skip
        for file, draw, rows, caption in drawn:
            draw(folder / file, rows)
            pictures.append(Picture(file, caption))
        return pictures


def _certificate(name: str, rows: Sequence[dict[str, Any]]) -> Finding:
    attacked = [row["f_S"]["robust_train"] for row in rows]
    corners = [row["corners"] for row in rows]
    certified = [row["certified"] for row in rows]
    holds = min(certified) == 1
    agree = min(attacked) == 1 and min(corners) == 1
    return Finding(
        f"a ReLU network classifies every ball around the training points right ({name})",
        "reproduced" if holds and agree else "partly" if holds else "not reproduced",
        f"{_percent(certified)} of {rows[0]['points']:,} linf balls of radius {rows[0]['delta']:.3g} certified, with a "
        f"logit margin of {min(row['least_margin'] for row in rows):.3g} at least ({len(rows)} seeds; images of "
        f"different classes are {min(row['separation'] for row in rows):.3g} apart or more); accuracy on "
        f"{rows[0]['attacked']:,} training images under {rows[0]['attack']} {_percent(attacked)}, at {CORNERS} random "
        f"corners of each of their balls {_percent(corners)}",
    )


def _clean(name: str, rows: Sequence[dict[str, Any]]) -> Finding:
    before, after = ([row[model]["clean_test"] for row in rows] for model in ("f", "f_S"))
    kept = max(abs(a - b) for a, b in zip(before, after, strict=True)) <= _SAME
    return Finding(
        f"memorizing keeps clean test accuracy ({name})",
        "reproduced" if kept else "not reproduced",
        f"clean test accuracy of f {_percent(before)}, of f_S {_percent(after)}; test images in a "
        f"bump of another class, the only place where accuracy can be lost: "
        f"{max(row['in_foreign_bump'] for row in rows)} of {rows[0]['test_images']:,}",
    )


def _robust(name: str, rows: Sequence[dict[str, Any]]) -> Finding:
    before, after = ([row[model]["robust_test"] for row in rows] for model in ("f", "f_S"))
    apart = max(abs(a - b) for a, b in zip(before, after, strict=True))
    gap = min(row["f_S"]["robust_train"] - row["f_S"]["robust_test"] for row in rows)
    return Finding(
        f"robust training accuracy 100% does not generalize: robust test accuracy of f_S is about that of f ({name})",
        "reproduced" if apart <= 5 * _SAME and gap > 0.1 else "not reproduced",
        f"test accuracy under {rows[0]['attack']} of f {_percent(before)}, of f_S {_percent(after)}, apart by "
        f"{apart:.1%} at most; f_S loses {gap:.1%} or more from training to test images",
    )


def _bill(name: str, rows: Sequence[dict[str, Any]]) -> Finding:
    of_points, of_dimension = (figures.slope(*figures.count_curve(rows, axis)) for axis in ("points", "dimension"))
    largest = max(rows, key=lambda row: row["parameters"])
    each = largest["parameters"] / largest["points"] / largest["dimension"]
    linear = max(abs(of_points - 1), abs(of_dimension - 1)) <= _NEAR_ONE
    return Finding(
        f"memorizing takes O(N D) extra parameters ({name})",
        "reproduced" if linear else "not reproduced",
        f"fitted powers: N^{of_points:.3f} and D^{of_dimension:.3f}, over {len(rows)} memorizers; the largest has "
        f"{largest['parameters']:,} extra parameters, {each:.2f} N D, for N = {largest['points']:,} and "
        f"D = {largest['dimension']:,}",
    )


def _over_width(name: str, rows: Sequence[dict[str, Any]]) -> Finding:
    widths = sorted({row["width"] for row in rows})
    narrow, wide = ([row for row in rows if row["width"] == width] for width in (widths[0], widths[-1]))
    numbers = {
        key: [float(np.mean([row[key] for row in part])) for part in (narrow, wide)]
        for key in ("robust_train", "clean_test", "robust_test")
    }
    gaps = [np.array([row["robust_train"] - row["robust_test"] for row in part]) for part in (narrow, wide)]
    grows = gaps[1].min() > gaps[0].max() and numbers["robust_train"][1] > numbers["robust_train"][0]
    fits = numbers["robust_train"][1] >= CLEAN_AT_LEAST and numbers["clean_test"][1] >= CLEAN_AT_LEAST
    verdict: Verdict = "reproduced" if grows and fits else "partly" if grows else "not reproduced"
    return Finding(
        f"wider adversarially trained networks fit the training set's balls, and the robust gap opens ({name})",
        verdict,
        f"from width {widths[0]} to {widths[-1]}: "
        + "; ".join(f"{key.replace('_', ' ')} accuracy {a:.1%} to {b:.1%}" for key, (a, b) in numbers.items())
        + f"; robust train minus robust test {gaps[0].mean():.1%} ({gaps[0].min():.1%} to {gaps[0].max():.1%} over "
        f"{len(narrow)} seeds) to {gaps[1].mean():.1%} ({gaps[1].min():.1%} to {gaps[1].max():.1%}); linf radius "
        f"{rows[0]['delta']:.3g}, {rows[0]['train_images']:,} training images, {rows[0]['epochs']} epochs",
    )


def _shown(delta: float, sigma: float, runs: Sequence[dict[str, Any]]) -> Finding:
    shown = sum(run["kind"] == "cgro" for run in runs)
    return Finding(
        f"adversarial training on patch data shows CGRO (delta {delta:g}, sigma {sigma:g})",
        "reproduced" if shown >= _MOST * len(runs) else "partly" if shown else "not reproduced",
        f"{shown} of {len(runs)} seeds (robust training accuracy 1, clean test accuracy at least {CLEAN_AT_LEAST:g}, "
        f"robust test accuracy at most {ROBUST_AT_MOST:g}): robust train {_span(runs, 'robust_train')}, clean test "
        f"{_span(runs, 'clean_test')} (with the first filters {_span(runs, 'clean_test_before')}), robust test "
        f"{_span(runs, 'robust_test')}, after {_steps(runs)} steps",
    )


def _staged(delta: float, sigma: float, runs: Sequence[dict[str, Any]]) -> Finding:
    through = [run for run in runs if run["memorizing"] is not None and run["fitted"] is not None]
    setting = f"delta {delta:g}, sigma {sigma:g}"
    claim = f"first U grows while the V_i are still, then the V_i, until all samples are fitted ({setting})"
    if not through:
        return Finding(claim, "not reproduced", f"no run of {len(runs)} fitted all its samples")
    shares = {key: np.array([_share_of_way(*run[key]) for run in through]) for key in "UV"}
    ordered = [run["memorizing"] < run["fitted"] for run in through]
    first = bool((shares["U"] > shares["V"]).all()) and all(ordered) and len(through) == len(runs)
    gains = {key: np.array([run[key][1] - run[key][0] for run in through]) for key in "UV"}
    apart = bool((shares["V"] <= _STILL).all() and (gains["U"] > gains["V"]).all())
    return Finding(
        claim,
        "reproduced" if first and apart else "partly" if first else "not reproduced",
        f"{len(through)} of {len(runs)} runs went through the three stages; when the first sample was memorized (step "
        f"{min(run['memorizing'] for run in through)} to {max(run['memorizing'] for run in through)}) U had made "
        f"{shares['U'].mean():.0%} of its way ({shares['U'].min():.0%} to {shares['U'].max():.0%}) and the mean of the "
        f"V_i {shares['V'].mean():.0%} ({shares['V'].min():.0%} to {shares['V'].max():.0%}); U had gained "
        f"{gains['U'].mean():.2g} and the mean of the V_i {gains['V'].mean():.2g}, U more than they in "
        f"{int((gains['U'] > gains['V']).sum())} runs; all samples were fitted at step "
        f"{min(run['fitted'] for run in through)} to {max(run['fitted'] for run in through)}",
    )


def _where(runs: Sequence[dict[str, Any]], column: str) -> Finding:
    shares = phase_diagram(runs, "delta", column)
    deltas, others = (sorted({run[name] for run in runs}) for name in ("delta", column))
    here = [(deltas[i], others[j]) for i, j in np.argwhere(shares["cgro"] >= 0.5)]
    name = "N" if column == "n" else column
    instead = "; ".join(f"{kind} {float(shares[kind].mean()):.0%}" for kind in shares)
    where = ", ".join(f"({delta:g}, {other:g})" for delta, other in here) or "nowhere"
    return Finding(
        f"CGRO appears in a region of delta and {name}, between where only U wins (robust) and only V (not clean)",
        "reproduced" if here and shares["robust"].any() and shares["not clean"].any() else "not reproduced",
        f"at least half of the seeds show it in {len(here)} of {shares['cgro'].size} places (delta, {name}): {where}; "
        f"of all {len(runs)} runs: {instead}",
    )


def _share_of_way(start: float, here: float, end: float) -> float:
    return (here - start) / (end - start)


def _percent(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.1%}" if f"{low:.1%}" == f"{high:.1%}" else f"{low:.1%} to {high:.1%}"


def _span(runs: Sequence[dict[str, Any]], key: str) -> str:
    low, high = min(run[key] for run in runs), max(run[key] for run in runs)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _steps(runs: Sequence[dict[str, Any]]) -> str:
    return f"{min(run['steps'] for run in runs):,} to {max(run['steps'] for run in runs):,}"
