"""What the networks say of the paper's claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from fastat.theory.generalization.networks import NetworkOutcome
from fastat.theory.generalization.statistics import mean_and_half_width
from fastat.theory.result import Finding, Verdict

Networks = Sequence[NetworkOutcome]
Measure = Callable[[NetworkOutcome], float]


def network_findings(networks: Networks) -> list[Finding]:
    """One finding per claim; those on overfitting and its cost for right and for wrong labels."""
    noises = sorted({outcome.cell.label_noise for outcome in networks})
    poisoned = at_noise(networks, noises[-1])
    return [
        _optimism(networks),
        *(_overfitting(at_noise(networks, noise)) for noise in noises),
        *(_disappointment(at_noise(networks, noise)) for noise in noises),
        _poisoning(poisoned),
        *(_accuracy(at_noise(networks, noise)) for noise in noises),
    ]


def main_eps(networks: Networks) -> float:
    """The radius at which HR was trained, and everything with wrong labels."""
    return next(o.cell.eps for o in networks if o.cell.label_noise > 0)


def at_noise(networks: Networks, noise: float) -> list[NetworkOutcome]:
    """The trainings at the main radius with this fraction of wrong labels."""
    eps = main_eps(networks)
    return [o for o in networks if o.cell.label_noise == noise and o.cell.eps == eps]


def by_budget(outcomes: Networks) -> dict[tuple[float, float], list[NetworkOutcome]]:
    """The trainings by (alpha, r), each list by seed; PGD training first, in the order of the settings."""
    groups: dict[tuple[float, float], list[NetworkOutcome]] = {}
    for outcome in sorted(outcomes, key=lambda o: o.cell.seed):
        groups.setdefault((outcome.cell.alpha, outcome.cell.r), []).append(outcome)
    return groups


def by_eps(networks: Networks) -> dict[float, list[NetworkOutcome]]:
    """PGD trainings on right labels by radius, ascending; each list by seed."""
    plain = [o for o in networks if o.cell.label_noise == 0 and o.cell.alpha == 0 and o.cell.r == 0]
    radii = sorted({o.cell.eps for o in plain})
    return {eps: sorted((o for o in plain if o.cell.eps == eps), key=lambda o: o.cell.seed) for eps in radii}


def budget_name(alpha: float, r: float) -> str:
    """What tables and figures call a training."""
    parts = [f"alpha {alpha:g}"] * (alpha > 0) + [f"r {r:g}"] * (r > 0)
    return f"HR {', '.join(parts)}" if parts else "PGD-AT"


def _optimism(networks: Networks) -> Finding:
    curve = by_eps(networks)
    steps = [_paired(b, a, lambda o: o.optimism) for a, b in pairwise(curve.values())]
    mean, half = _paired(curve[max(curve)], curve[min(curve)], lambda o: o.optimism)
    grows, shrinks, falls = mean > half, mean < -half, any(step < -width for step, width in steps)
    verdict: Verdict = "reproduced" if grows and not falls else "not reproduced" if shrinks else "partly"
    shown = ", ".join(f"{_shown(group, lambda o: o.optimism)} (eps {eps:.3g})" for eps, group in curve.items())
    return Finding(
        "The optimism of PGD training, test loss minus training loss, grows with eps (networks).",
        verdict,
        f"{shown}; mean over seeds +- half of the 95% interval, after the training.",
    )


def _overfitting(outcomes: Networks) -> Finding:
    groups = by_budget(outcomes)
    plain = groups.pop((0.0, 0.0))
    better = {key: _paired(plain, group, lambda o: o.gap) for key, group in groups.items()}
    gap, half = mean_and_half_width([o.gap for o in plain])
    smaller = sum(mean - width > 0 for mean, width in better.values())
    verdict: Verdict = "reproduced" if smaller == len(better) else "partly" if smaller else "not reproduced"
    shown = ", ".join(f"{_shown(group, lambda o: o.gap, 100)} ({budget_name(*key)})" for key, group in groups.items())
    return Finding(
        f"Robust overfitting, best minus final robust accuracy, is smaller under HR than under PGD training "
        f"({_labels(outcomes)}).",
        verdict,
        f"PGD-AT {100 * gap:.1f} +- {100 * half:.1f} points, {shown}; smaller beyond the 95% interval of the paired "
        f"difference in {smaller} of {len(better)} trainings with HR. The best of many measurements lies above the "
        f"last one also where nothing overfits.",
    )


def _disappointment(outcomes: Networks) -> Finding:
    groups = by_budget(outcomes)
    held = {key: sum(not o.disappointed for o in group) for key, group in groups.items()}
    hr = {key: count for key, count in held.items() if key != (0.0, 0.0)}
    tried = sum(len(groups[key]) for key in hr)
    total = sum(hr.values())
    shown = ", ".join(
        f"{held[key]} of {len(group)} with {_mean(group, lambda o: o.in_sample[-1]):.3f} against "
        f"{_mean(group, lambda o: o.test[-1]):.3f} ({budget_name(*key)})"
        for key, group in groups.items()
    )
    return Finding(
        f"The HR loss of the training set bounds the test loss of the network trained on it ({_labels(outcomes)}).",
        "reproduced" if total == tried else "partly" if total else "not reproduced",
        f"Networks whose test loss is at most the HR loss in sample, and the means of both: {shown}. The theorem's "
        f"constant, which has to cover that these very images chose the network, is not known for networks.",
    )


def _poisoning(outcomes: Networks) -> Finding:
    groups = by_budget(outcomes)
    noise = outcomes[0].cell.label_noise
    covered = {key: group for key, group in groups.items() if key[0] >= noise}
    held = {key: sum(not o.disappointed for o in group) for key, group in covered.items()}
    total, tried = sum(held.values()), sum(len(group) for group in covered.values())
    verdict: Verdict = (
        "not tested" if not tried else "reproduced" if total == tried else "partly" if total else "not reproduced"
    )
    margins = ", ".join(
        f"{_shown(group, lambda o: o.in_sample[-1] - o.test[-1])} ({budget_name(*key)})"
        for key, group in groups.items()
    )
    return Finding(
        f"With {noise:.0%} wrong labels the HR loss in sample bounds the clean test loss if alpha is at least that.",
        verdict,
        f"It does in {total} of {tried} such networks; HR loss in sample minus test loss: {margins}.",
    )


def _accuracy(outcomes: Networks) -> Finding:
    groups = by_budget(outcomes)
    plain = groups.pop((0.0, 0.0))
    change = {key: _paired(group, plain, lambda o: o.robust[-1]) for key, group in groups.items()}
    higher = sum(mean - half > 0 for mean, half in change.values())
    lower = sum(mean + half < 0 for mean, half in change.values())
    verdict: Verdict = "reproduced" if higher == len(change) else "partly" if higher else "not reproduced"
    shown = ", ".join(
        f"{100 * mean:+.1f} +- {100 * half:.1f} ({budget_name(*key)})" for key, (mean, half) in change.items()
    )
    return Finding(
        f"HR training ends with a higher robust test accuracy than PGD training ({_labels(outcomes)}).",
        verdict,
        f"PGD-AT {_shown(plain, lambda o: o.robust[-1], 100)}%; HR less PGD-AT, in points: {shown}; higher beyond the "
        f"95% interval in {higher}, lower in {lower} of {len(change)} trainings.",
    )


def _labels(outcomes: Networks) -> str:
    noise = outcomes[0].cell.label_noise
    return f"{noise:.0%} wrong labels" if noise > 0 else "right labels"


def _mean(group: Networks, measure: Measure) -> float:
    return mean_and_half_width([measure(o) for o in group])[0]


def _shown(group: Networks, measure: Measure, factor: float = 1.0) -> str:
    mean, half = mean_and_half_width([factor * measure(o) for o in group])
    return f"{mean:.1f} +- {half:.1f}" if factor > 1 else f"{mean:.3f} +- {half:.3f}"


def _paired(a: Networks, b: Networks, measure: Measure) -> tuple[float, float]:
    """Mean of a - b over the seeds, and half of its 95% interval."""
    return mean_and_half_width([measure(one) - measure(other) for one, other in zip(a, b, strict=True)])
