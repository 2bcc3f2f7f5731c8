"""What the numbers say of the paper's claims."""

from __future__ import annotations

from collections.abc import Sequence

from fastat.report import format_eps
from fastat.theory.catastrophic.cell import TITLES
from fastat.theory.catastrophic.sweeping import Outcome
from fastat.theory.catastrophic.trainings import Trainings
from fastat.theory.catastrophic.views import PARTS
from fastat.theory.result import Finding, Verdict

_FALLEN = 0.5  # a collapse: final PGD accuracy of at most this part of its best


def all_findings(result: Trainings) -> list[Finding]:
    """A finding for each claim, in the order of the paper."""
    return [
        _induced(result),
        _by_radius(result),
        _strong_feature(result),
        _curvature(result),
        *_methods(result),
        _combined(result),
        _low_pass(result),
        _projected(result),
    ]


def fallen(outcome: Outcome) -> bool:
    """Whether the last PGD accuracy is at most half of the best one."""
    return bool(outcome.last["pgd"] <= _FALLEN * outcome.best["pgd"])


def _verdict(hits: Sequence[bool]) -> Verdict:
    if not hits:
        return "not tested"
    return "reproduced" if all(hits) else "partly" if any(hits) else "not reproduced"


def _induced(result: Trainings) -> Finding:
    with_it, without = result.collapsing, result.without
    settings = result.settings
    hits = [fallen(o) for o in with_it]
    sound = not any(fallen(o) for o in without)
    verdict = _verdict(hits) if sound else ("not reproduced" if not any(hits) else "partly")
    return Finding(
        "A feature that is added to the data makes FGSM training collapse at a radius where it is stable without",
        verdict,
        f"eps {format_eps(settings.eps)}, beta {format_eps(settings.beta)}: {sum(hits)} of {len(hits)} seeds end at "
        f"half of their best PGD accuracy or less: {'; '.join(_fall(o) for o in with_it)}. Without the feature: "
        f"{'; '.join(_fall(o) for o in without)}.",
    )


def _fall(outcome: Outcome) -> str:
    best, last = outcome.best, outcome.last
    text = f"{last['pgd']:.2f} after {best['pgd']:.2f} at epoch {best['epoch']}"
    return text if outcome.collapse is None else f"{text} (collapsed by epoch {outcome.collapse})"


def _by_radius(result: Trainings) -> Finding:
    settings = result.settings
    smaller = [eps for eps in settings.epsilons if eps < settings.eps]
    cells = [result.fgsm(beta, eps)[0] for eps in smaller for beta in settings.betas]
    return Finding(
        "Below a radius that depends on the amplitude nothing collapses",
        _verdict([not fallen(o) for o in cells]),
        f"{sum(fallen(o) for o in cells)} of {len(cells)} cells with a smaller eps collapse; final PGD accuracies "
        f"{_by_cell(cells)}.",
    )


def _strong_feature(result: Trainings) -> Finding:
    cells = [result.fgsm(b, e)[0] for e in result.settings.epsilons for b in result.settings.betas if b > e]
    alone = ", ".join(f"{o.last['alone']:.2f}" for o in cells)
    return Finding(
        "A feature stronger than the attack is robust itself: FGSM training does not collapse, PGD accuracy is near 1",
        _verdict([o.last["pgd"] >= 0.95 for o in cells]),
        f"final PGD accuracies where beta > eps: {_by_cell(cells)}; accuracy on the patterns alone {alone}.",
    )


def _by_cell(cells: Sequence[Outcome]) -> str:
    return ", ".join(
        f"{o.last['pgd']:.2f} (eps {format_eps(o.cell.eps)}, beta {format_eps(o.cell.beta)})" for o in cells
    )


def _curvature(result: Trainings) -> Finding:
    """It must grow more than it ever does without the feature, and end above all that is seen there."""
    runs, without = [o for o in result.collapsing if fallen(o)], result.without
    usual, highest = max(_growth(o) for o in without), max(o.last["curvature"] for o in without)
    return Finding(
        "The loss becomes curved along the step of FGSM as training collapses",
        _verdict([_growth(o) > usual and o.last["curvature"] > highest for o in runs]),
        "change of the loss gradient along the step, from the epoch of the best PGD accuracy to the last one: "
        f"{_bends(runs)} in the runs that collapsed, {_bends(without)} without the feature.",
    )


def _growth(outcome: Outcome) -> float:
    return float(outcome.last["curvature"] / outcome.best["curvature"])


def _bends(outcomes: Sequence[Outcome]) -> str:
    texts = [f"{o.best['curvature']:.2f} to {o.last['curvature']:.2f} ({_growth(o):.1f} times)" for o in outcomes]
    return ", ".join(texts) or "none"


def _methods(result: Trainings) -> list[Finding]:
    """The methods that the paper finds to avoid the collapse, and RS-FGSM, which it finds to put it off at most."""
    tried = {o.cell.method: o for o in result.compared() if o.cell.method != "fgsm"}
    safe = [o for method, o in tried.items() if method != "rs-fgsm"]
    weak = [o for method, o in tried.items() if method == "rs-fgsm"]
    return [
        Finding(
            "N-FGSM, GradAlign and PGD avoid the collapse",
            _verdict([not fallen(o) for o in safe]),
            f"{_by_method(safe)}; FGSM there: {_fall(result.collapsing[0])}.",
        ),
        Finding(
            "Noise that stays in the ball does not help for sure: RS-FGSM collapses as well",
            _verdict([fallen(o) for o in weak]),
            f"{_by_method(weak)}.",
        ),
    ]


def _by_method(outcomes: Sequence[Outcome]) -> str:
    return "; ".join(f"{TITLES[o.cell.method]}: {_fall(o)}" for o in outcomes) or "none was trained"


def _combined(result: Trainings) -> Finding:
    """Whether a collapsed network needs the image; and which way round it reads the feature."""
    runs = [o for o in result.collapsing if fallen(o)]
    hits = [o.last["alone"] < 0.5 < o.last["original"] for o in runs]
    texts = [f"{_parts(o.best)} before, {_parts(o.last)} after" for o in runs]
    reverses = result.settings.eps > result.settings.beta  # a whole step of FGSM against the feature
    turned = reverses and runs and all(o.last["reversed"] > o.last["injected"] for o in runs)
    note = (
        " They do better on the reversed feature, as FGSM's step leaves it, than on the injected one." if turned else ""
    )
    return Finding(
        "The collapsed network does not simply rely on the feature: it still recognizes images, and fails on the "
        "patterns alone",
        _verdict(hits),
        f"accuracy on injected / original / feature removed / patterns alone / feature reversed: "
        f"{'; '.join(texts) or 'no run collapsed'}.{note}",
    )


def _parts(row: dict[str, float]) -> str:
    return " / ".join(f"{row[part]:.2f}" for part in PARTS)


def _low_pass(result: Trainings) -> Finding:
    runs = [o for o in result.compared(filtered=True)]
    texts = [f"W = {o.cell.bandwidth}: {_fall(o)}, {_without_filter(o)} without the filter" for o in runs]
    return Finding(
        "Without the high frequencies FGSM training does not collapse",
        _verdict([not fallen(o) for o in runs]),
        f"a low pass in front of the network: {'; '.join(texts) or 'none was trained'}.",
    )


def _without_filter(outcome: Outcome) -> str:
    return f"{outcome.unfiltered['pgd']:.2f}" if outcome.unfiltered is not None else "not measured"


def _projected(result: Trainings) -> Finding:
    runs = result.chosen(lambda cell: cell.injection == "projected")
    return Finding(
        "The collapse needs no interference: it comes too where the feature replaces what the images have in its span",
        _verdict([fallen(o) for o in runs]),
        f"projected injection: {'; '.join(_fall(o) for o in runs) or 'was not trained'}.",
    )
