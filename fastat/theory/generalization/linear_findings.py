"""What the linear models say of the theorem's claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from fastat.evaluation import wilson_interval
from fastat.theory.generalization.disappointment import LinearOutcome
from fastat.theory.generalization.fitting import Worst
from fastat.theory.generalization.statistics import Rate, exponential_rate
from fastat.theory.result import Finding, Verdict

Linear = Sequence[LinearOutcome]


def linear_findings(rates: Linear, corruptions: Linear, optimism: Linear) -> list[Finding]:
    """One finding per claim."""
    return [
        _rate(rates, "support"),
        _rate(rates, "sample"),
        _plain(rates),
        _hidden(corruptions, "support"),
        _hidden(corruptions, "sample"),
        _flipped(corruptions),
        _optimism(optimism),
    ]


def sizes(rates: Linear) -> list[int]:
    """The sizes of the samples, ascending."""
    return sorted({outcome.cell.n for outcome in rates})


def plain_at(rates: Linear, n: int) -> LinearOutcome:
    """Ordinary adversarial training on samples of n points."""
    return next(outcome for outcome in rates if outcome.cell.n == n and outcome.cell.r == 0)


def hr_at(rates: Linear, n: int, worst: Worst) -> list[LinearOutcome]:
    """HR training on samples of n points, by r."""
    chosen = [o for o in rates if o.cell.n == n and o.cell.worst == worst and o.cell.r > 0]
    return sorted(chosen, key=lambda outcome: outcome.cell.r)


def fitted_rate(outcomes: Linear) -> Rate | None:
    """Frequency = exp(constant - slope r n) through these."""
    return exponential_rate(
        [o.cell.r * o.cell.n for o in outcomes], [o.disappointed for o in outcomes], outcomes[0].cell.samples
    )


def corrupted_at(corruptions: Linear, corruption: str, worst: Worst) -> list[LinearOutcome]:
    """HR training on samples corrupted in this way, by alpha."""
    chosen = [o for o in corruptions if o.cell.corruption == corruption and o.cell.worst == worst]
    return sorted(chosen, key=lambda outcome: outcome.cell.alpha)


def interval(outcome: LinearOutcome) -> tuple[float, float]:
    """The 95% interval of the frequency of disappointment."""
    return wilson_interval(outcome.frequency, outcome.cell.samples)


def _rate(rates: Linear, worst: Worst) -> Finding:
    claims = {
        "support": "The HR loss in the sample is exceeded out of sample with a probability of at most "
        "exp(-r n + O(1)); worst case: the largest loss that the distribution can produce, as in the theorem.",
        "sample": "The same with the largest loss of the sample as worst case, as in training on batches, of which "
        "the theorem says nothing.",
    }
    fits = {n: fitted_rate(hr_at(rates, n, worst)) for n in sizes(rates)}
    known = {n: rate for n, rate in fits.items() if rate is not None}
    holding = [n for n, rate in known.items() if rate.slope + 2 * rate.slope_error >= 1]
    last = {n: hr_at(rates, n, worst)[-1] for n in fits}
    slopes = ", ".join(f"{rate.slope:.2f} +- {rate.slope_error:.2f} (n {n})" for n, rate in known.items())
    ends = ", ".join(f"{o.frequency:.4f} (n {n}, r n {o.cell.r * n:g})" for n, o in last.items())
    return Finding(
        claims[worst],
        _verdict(len(holding), len(fits)),
        f"Fitted slope of -log frequency in r n, the theorem's being 1 or more (+- standard error; the constant O(1), "
        f"not known, was fitted too): {slopes or 'too few disappointments to fit'}. Last frequency: {ends}.",
    )


def _plain(rates: Linear) -> Finding:
    each = [plain_at(rates, n) for n in sizes(rates)]
    often = [o for o in each if interval(o)[0] > 0.5]
    shown = ", ".join(f"{o.frequency:.3f} (n {o.cell.n})" for o in each)
    losses = ", ".join(f"{o.in_sample:.3f} in, {o.population:.3f} out of sample (n {o.cell.n})" for o in each)
    return Finding(
        "The training loss of ordinary adversarial training (r = alpha = 0) is exceeded out of sample more often than "
        "not.",
        _verdict(len(often), len(each)),
        f"Frequency of disappointment {shown}; mean loss {losses}.",
    )


def _hidden(corruptions: Linear, worst: Worst) -> Finding:
    claims = {
        "support": "The bound survives an adversary who replaced a fraction of the sample, if alpha is at least that "
        "fraction; worst case of the distribution.",
        "sample": "The same with the worst case of the sample, which the adversary may have taken away.",
    }
    curve = corrupted_at(corruptions, "hide", worst)
    fraction = curve[0].cell.fraction
    covered = [o for o in curve if o.cell.alpha >= fraction]
    holding = [o for o in covered if interval(o)[0] <= math.exp(-o.cell.r * o.cell.n)]
    shown = ", ".join(f"{o.frequency:.3f} (alpha {o.cell.alpha:g})" for o in curve)
    return Finding(
        claims[worst],
        _verdict(len(holding), len(covered)),
        f"{fraction:.0%} of the points, the hardest, replaced by the easiest of the support; n {curve[0].cell.n}, r n "
        f"{curve[0].cell.r * curve[0].cell.n:g}, so exp(-r n) = {math.exp(-curve[0].cell.r * curve[0].cell.n):.3f}; "
        f"frequency of disappointment {shown}.",
    )


def _flipped(corruptions: Linear) -> Finding:
    curve = corrupted_at(corruptions, "flip", "support")
    fraction = curve[0].cell.fraction
    covered = [o for o in curve if o.cell.alpha >= fraction]
    holding = [o for o in covered if interval(o)[0] <= math.exp(-o.cell.r * o.cell.n)]
    shown = ", ".join(f"{o.frequency:.3f} (alpha {o.cell.alpha:g})" for o in curve)
    losses = ", ".join(f"{o.in_sample:.3f} and {o.population:.3f} (alpha {o.cell.alpha:g})" for o in curve)
    return Finding(
        "The bound survives flipped labels, if alpha is at least their fraction.",
        _verdict(len(holding), len(covered)),
        f"{fraction:.0%} of the labels flipped; frequency of disappointment {shown}. Flipped labels raise the loss in "
        f"sample and hide nothing, so the bound is loose: mean loss in and out of sample {losses}.",
    )


def by_size(optimism: Linear) -> dict[int, list[LinearOutcome]]:
    """The curves of plain adversarial training against eps, by the size of the samples."""
    ordered = sorted(optimism, key=lambda outcome: outcome.cell.problem.eps)
    return {n: [o for o in ordered if o.cell.n == n] for n in sizes(optimism)}


def _optimism(optimism: Linear) -> Finding:
    curves = by_size(optimism)
    growing = [n for n, curve in curves.items() if max(_difference(curve[0], o) for o in curve[1:] or curve) > 2]
    falling = [
        n for n, curve in curves.items() if min((_difference(*pair) for pair in pairwise(curve)), default=0) < -2
    ]
    verdict = "partly" if growing and falling else _verdict(len(growing), len(curves))
    shown = "; ".join(
        f"n {n}: "
        + ", ".join(f"{o.optimism:.4f} +- {o.optimism_error:.4f} (eps {o.cell.problem.eps:g})" for o in curve)
        for n, curve in curves.items()
    )
    tops = ", ".join(f"{max(c, key=lambda o: o.optimism).cell.problem.eps:g} (n {n})" for n, c in curves.items())
    return Finding(
        "The optimism of ordinary adversarial training, loss out of sample minus training loss, grows with eps "
        "(linear models).",
        verdict,
        f"By more than two standard errors above that at the smallest eps for {len(growing)} of {len(curves)} sizes; "
        f"it falls somewhere along the curve for {len(falling)}; largest at eps {tops}. "
        f"{shown} (+- standard error).",
    )


def _difference(a: LinearOutcome, b: LinearOutcome) -> float:
    """How far the optimism of b is above that of a, in standard errors."""
    return (b.optimism - a.optimism) / math.hypot(a.optimism_error, b.optimism_error)


def _verdict(holding: int, tried: int) -> Verdict:
    if tried == 0:
        return "not tested"
    return "reproduced" if holding == tried else "partly" if holding > 0 else "not reproduced"
