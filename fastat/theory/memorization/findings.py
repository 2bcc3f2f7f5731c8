"""What the numbers say of the claims of Xu et al. 2021, each by a rule that its function states.

"Beyond noise" means that a 95% interval of a difference (:mod:`fastat.theory.memorization.comparison`) excludes 0. A
claim is "reproduced" if it is so for every dataset and radius where it could be tested, "partly" if for some.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from fastat.report import format_eps
from fastat.theory.memorization.cells import KINDS
from fastat.theory.memorization.comparison import Difference, mean_interval
from fastat.theory.memorization.groups import ATTACK
from fastat.theory.memorization.summary import BENIGN, FULL, LOSS_UNDER_ATTACK, Bed
from fastat.theory.result import Finding, Verdict

_WITHOUT, _RANDOM = "score 1", "random 1"  # all atypical samples removed, or as many random ones
_Rule = Callable[[Bed, float], tuple[Verdict, str]]
_HALVES = {"train": "training", "test": "test"}
_KIND_NAMES = {"clean": "clean", ATTACK: "PGD-10"}
_RIVALS = {FULL: "PGD-AT", "trades": "TRADES", "mart": "MART"}


def findings(beds: Sequence[Bed]) -> list[Finding]:
    """One per claim."""
    return [
        _long_tail(beds),
        _finding("Adversarial training fits atypical training samples, but their robustness stays behind", _fit, beds),
        _finding("Fitting atypical samples improves clean accuracy on atypical test samples", _clean, beds),
        _finding("It hardly improves their robust accuracy", _robust, beds),
        _finding("Fitting some of the atypical samples hurts typical test samples", _typical, beds),
        _finding("Benign adversarial training (BAT) has the better clean or robust accuracy", _benign, beds),
    ]


def _long_tail(beds: Sequence[Bed]) -> Finding:
    """Holds where more training and more test samples are atypical than chance makes, by 1.96 standard deviations of a
    Poisson number; half of it where that is so of training samples alone."""
    held, parts = [], []
    for bed in beds:
        beyond = 0
        text = []
        for half, chance in zip(("train", "test"), bed.by_chance, strict=True):
            atypical, n = bed.samples[f"atypical {half}"], bed.samples[f"typical {half}"]
            beyond += atypical > chance + 1.96 * chance**0.5
            text.append(f"{atypical} of {atypical + n} {_HALVES[half]} samples ({chance:.1f} by chance)")
        held.append(beyond)
        parts.append(f"{bed.data}: {' and '.join(text)} have memorization or influence above 0.15")
    verdict: Verdict = "reproduced" if min(held) == 2 else "partly" if max(held) > 0 else "not reproduced"
    return Finding(
        "Networks know some training samples only because they saw them, and some test samples only through those",
        verdict,
        "; ".join(parts),
    )


def _fit(bed: Bed, eps: float) -> tuple[Verdict, str]:
    """Holds where robust accuracy falls from atypical training to atypical test samples beyond noise (over the seeds),
    and by more than it does for typical ones."""
    if bed.samples["atypical test"] == 0:
        return "not tested", "no test sample is atypical"
    found = {name: np.array(values) for name, values in bed.accuracy(eps, FULL).items()}
    gaps = {kind: found[f"{kind} train {ATTACK}"] - found[f"{kind} test {ATTACK}"] for kind in ("typical", "atypical")}
    mean, reach = mean_interval(gaps["atypical"] - gaps["typical"])
    holds = bool(mean > reach and gaps["atypical"].mean() > mean_interval(gaps["atypical"])[1])
    parts = []
    for group in ("atypical", "typical"):
        for half, name in _HALVES.items():
            clean, robust = (found[f"{group} {half} {kind}"].mean() for kind in KINDS)
            parts.append(f"{group} {name} samples {clean:.1%} and {robust:.1%}")
    return _verdict(holds), f"accuracy clean and under PGD-10: {', '.join(parts)}"


def _clean(bed: Bed, eps: float) -> tuple[Verdict, str]:
    """Holds where training on the atypical samples is better beyond noise than without them, and than without as many
    random ones in their place."""
    if bed.samples["atypical test"] < 2:
        return "not tested", "fewer than two test samples are atypical"
    gain = bed.contrast(eps, FULL, _WITHOUT, "atypical test", "clean")
    chosen = bed.contrast(eps, _RANDOM, _WITHOUT, "atypical test", "clean")
    random = bed.contrast(eps, FULL, _RANDOM, "atypical test", "clean")
    return _verdict(gain.interval()[0] > 0 and chosen.interval()[0] > 0), (
        f"with the {bed.samples['atypical train']} atypical samples {_points(gain)} on {bed.samples['atypical test']} "
        f"atypical test samples; with as many random ones {_points(random)}"
    )


def _robust(bed: Bed, eps: float) -> tuple[Verdict, str]:
    """Holds where the robust accuracy gains less than half of what the clean accuracy does, and less beyond noise; has
    no meaning where the clean accuracy does not gain."""
    if _clean(bed, eps)[0] != "reproduced":
        return "not tested", "no gain in clean accuracy to compare with"
    pair = (eps, FULL, _WITHOUT, "atypical test")
    clean, robust = (bed.contrast(*pair, kind) for kind in KINDS)
    less = bed.contrast(*pair, LOSS_UNDER_ATTACK)
    return _verdict(robust.mean < clean.mean / 2 and less.interval()[0] > 0), (
        f"with the atypical samples {_points(robust)} under PGD-10 beside {_points(clean)} clean; "
        f"the clean gain is larger by {_points(less)}"
    )


def _typical(bed: Bed, eps: float) -> tuple[Verdict, str]:
    """Holds where typical test samples, clean or under PGD-10, are better after the removal of some of the atypical
    training samples than before; partly where only better than after the removal of as many random ones. Intervals are
    widened for the number of comparisons (Bonferroni)."""
    removals = [t.condition for t in bed.trainings if t.eps == eps and t.condition.startswith("score")]
    compared = [(name, kind) for name in removals for kind in KINDS]
    level = 1 - 0.05 / len(compared)

    def gains(before: Callable[[str], str]) -> dict[tuple[str, str], Difference]:
        return {(name, kind): bed.contrast(eps, before(name), name, "typical test", kind) for name, kind in compared}

    on_all, on_random = gains(lambda name: FULL), gains(lambda name: name.replace("score", "random"))
    verdict: Verdict = "not reproduced"
    for found, meaning in ((on_random, "partly"), (on_all, "reproduced")):
        if any(one.interval(level)[1] < 0 for one in found.values()):
            verdict = cast(Verdict, meaning)
    texts = []
    for text, found in (("on all samples", on_all), ("without as many random samples", on_random)):
        (name, kind), least = min(found.items(), key=lambda item: item[1].interval(level)[1])
        part = f"the most memorized {float(name.split()[1]):.0%} of the atypical ones"
        effect = f"{_KIND_NAMES[kind]} accuracy by {_points(least, level)}"
        texts.append(f"training {text} rather than without {part} changes {effect}")
    head = f"typical test samples, the clearest of {len(compared)} comparisons ({level:.1%} intervals)"
    return verdict, f"{head}: {'; '.join(texts)}"


def _benign(bed: Bed, eps: float) -> tuple[Verdict, str]:
    """Holds where BAT, on all test samples, is better beyond noise clean or under PGD-10 and worse in neither, against
    each of the other protocols; partly where against some."""
    trained = {t.condition for t in bed.trainings if t.eps == eps}
    if BENIGN not in trained:
        return "not tested", "BAT was not trained"
    rivals = {name: title for name, title in _RIVALS.items() if name in trained}
    better, parts = [], []
    for rival, title in rivals.items():
        found = [bed.contrast(eps, BENIGN, rival, "all test", kind) for kind in KINDS]
        up = any(one.interval()[0] > 0 for one in found)
        down = any(one.interval()[1] < 0 for one in found)
        better.append(up and not down)
        parts.append(f"against {title} {_points(found[0])} clean and {_points(found[1])} under PGD-10")
    verdict: Verdict = "reproduced" if all(better) else "partly" if any(better) else "not reproduced"
    return verdict, f"BAT {', '.join(parts)} (all test samples)"


def _finding(claim: str, rule: _Rule, beds: Sequence[Bed]) -> Finding:
    cases = [(bed, eps, *rule(bed, eps)) for bed in beds for eps in bed.eps]
    found = {verdict for *_, verdict, _ in cases if verdict != "not tested"}
    overall: Verdict = "not tested" if not found else found.pop() if len(found) == 1 else "partly"
    texts = [f"{bed.data}, eps {format_eps(eps)} ({verdict}): {text}" for bed, eps, verdict, text in cases]
    return Finding(claim, overall, "; ".join(texts))


def _verdict(holds: bool) -> Verdict:
    return "reproduced" if holds else "not reproduced"


def _points(difference: Difference, level: float = 0.95) -> str:
    low, high = (f"{100 * end:+.1f}" for end in difference.interval(level))
    return f"{100 * difference.mean:+.1f} points ({low} to {high})"
