"""What the numbers of the study of atypical samples are taken to say, on numbers made up for the purpose."""

import pytest

from fastat.theory.memorization.comparison import Difference
from fastat.theory.memorization.findings import findings
from fastat.theory.memorization.summary import Bed, Contrast, Training

KINDS = ("clean", "pgd-10")


def bed(eps: float = 0.1, error: float = 0.01, **means: float) -> Bed:
    """Differences are 0 but those given, as ``first__second__group__kind=mean``; all have the same standard error.

    "score" and "random" stand for the removal of all atypical samples, or as many.
    """
    short = {
        "pgd_10": "pgd-10",
        "full": "pgd-at",
        "score": "score 1",
        "random": "random 1",
        "gap": "clean minus pgd-10",
    }
    given = {tuple(short.get(part, part) for part in name.split("__")): mean for name, mean in means.items()}
    pairs = [("pgd-at", "score 1"), ("pgd-at", "random 1"), ("random 1", "score 1")]
    pairs += [("bat", "pgd-at"), ("bat", "trades"), ("trades", "pgd-at")]
    groups = {"typical": "typical test", "atypical": "atypical test", "all": "all test"}
    contrasts = [
        Contrast(eps, *pair, full, kind, Difference(given.get((*pair, group, kind), 0.0), error, 20.0))
        for pair in pairs
        for group, full in groups.items()
        for kind in (*KINDS, "clean minus pgd-10")
    ]
    accuracy = {
        "typical train": (1.0, 0.9), "typical test": (0.98, 0.85), "atypical train": (1.0, 0.8),
        "atypical test": (0.9, 0.2),
    }  # fmt: skip
    spread = (-0.01, 0.0, 0.01)
    trainings = [
        Training(
            eps,
            name,
            {
                f"{group} {kind}": [value + shift * (group == "atypical test") for shift in spread]
                for group, values in accuracy.items()
                for kind, value in zip(KINDS, values, strict=True)
            },
        )
        for name in ("pgd-at", "score 1", "random 1", "bat", "trades")
    ]
    samples = {"typical train": 400, "atypical train": 40, "typical test": 900, "atypical test": 100, "all test": 1000}
    return Bed("digits", "digits", samples, [0.5, 10.0], {}, {}, {}, trainings, contrasts, [])


GAIN = {"full__score__atypical__clean": 0.1, "random__score__atypical__clean": 0.1}
LESS = GAIN | {"full__score__atypical__gap": 0.08, "full__score__atypical__pgd-10": 0.02}


def verdict(claim: int, *beds: Bed) -> str:
    return findings(beds)[claim].verdict


@pytest.mark.parametrize(
    ("claim", "means", "expected"),
    [
        (1, {}, "reproduced"),
        (2, GAIN, "reproduced"),
        (2, {"full__score__atypical__clean": 0.1}, "not reproduced"),  # no more than random samples are worth
        (2, {"full__score__atypical__clean": 0.02, "random__score__atypical__clean": 0.02}, "not reproduced"),
        (3, LESS, "reproduced"),
        (3, LESS | {"full__score__atypical__pgd-10": 0.06}, "not reproduced"),
        (3, LESS | {"full__score__atypical__gap": 0.02}, "not reproduced"),
        (3, {}, "not tested"),
        (4, {}, "not reproduced"),
        (4, {"full__score__typical__pgd-10": -0.03}, "reproduced"),
        (4, {"full__score__typical__pgd-10": -0.022}, "not reproduced"),  # beyond 95%, not beyond 97.5%
        (4, {"random__score__typical__clean": -0.03}, "partly"),
        (4, {"full__score__typical__clean": 0.03}, "not reproduced"),
        (5, {}, "not reproduced"),
        (5, {"bat__full__all__clean": 0.05}, "partly"),
        (5, {"bat__full__all__clean": 0.05, "bat__trades__all__pgd-10": 0.05}, "reproduced"),
        (5, {"bat__full__all__clean": 0.05, "bat__full__all__pgd-10": -0.05}, "not reproduced"),
    ],
)
def test_verdicts(claim, means, expected):
    found = bed(**{name.replace("pgd-10", "pgd_10"): mean for name, mean in means.items()})
    assert verdict(claim, found) == expected


def test_evidence_has_the_numbers():
    found = findings([bed(**GAIN)])
    assert (
        "40 of 440 training samples (0.5 by chance) and 100 of 1000 test samples (10.0 by chance)" in found[0].evidence
    )
    assert "atypical test samples 90.0% and 20.0%" in found[1].evidence
    reach = 100 * 0.01 * 2.086  # the 97.5% quantile of t with 20 degrees of freedom
    assert f"with the 40 atypical samples +10.0 points ({10 - reach:+.1f} to {10 + reach:+.1f})" in found[2].evidence
    assert "97.5% intervals" in found[4].evidence


def test_datasets_and_radii_that_disagree():
    assert verdict(2, bed(**GAIN), bed(0.2, **GAIN)) == "reproduced"
    assert verdict(2, bed(**GAIN), bed(0.2)) == "partly"
    assert verdict(3, bed(**LESS), bed(0.2)) == "reproduced"  # where it could be tested


def test_chance_and_empty_groups():
    found = bed()
    found.samples["atypical test"] = 16
    assert verdict(0, found) == "partly"
    found.samples["atypical train"] = 1
    assert verdict(0, found) == "not reproduced"
    found.samples["atypical test"] = 0
    assert [finding.verdict for finding in findings([found])][1:4] == ["not tested"] * 3
