"""What is kept of a run: one compact JSON with ratios, and the tables made from it."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from bench.contests.contest import AGAIN, NO_TIME, OURS
from bench.peers.attackers import parse
from bench.reports.attack_table import by_case, by_contender, has_variants
from bench.reports.layout import Case, markdown, noise_of, ratio_of, time_of

TRAINING_STEP = "training step"
"""Title of the cases whose contenders are objectives: "ours" is the plain cross-entropy."""


def cases_of(raw: dict[str, Any]) -> list[Case]:
    """The cases that a suite has measured, each with its contenders' times relative to ours.

    A ratio is their time over ours (the mean of its two turns) within a round: the median over the rounds, and the
    quartiles. The noise of a case is the same for ours against ours again.
    """
    return [_case(outcome, raw["ceilings"]) for outcome in raw["outcomes"]]


def _case(outcome: dict[str, Any], ceilings: dict[str, float]) -> Case:
    times, facts = outcome["times"], outcome["facts"]
    case = {**outcome["label"], "bytes": outcome["bytes"]}
    ours = [(a + b) / 2 for a, b in zip(times[OURS], times[AGAIN], strict=True)]
    case["noise"] = _quartiles([b / a for a, b in zip(times[OURS], times[AGAIN], strict=True)])
    case["contenders"] = {}
    for who, seconds in times.items():
        if who == AGAIN:
            continue
        seconds = ours if who == OURS else seconds
        ratios = _quartiles([s / o for s, o in zip(seconds, ours, strict=False)])  # as many rounds as it had
        entry = {"median_s": _digits(statistics.median(seconds)), "rounds": len(seconds), "ratio": ratios}
        if case["bytes"]:
            speed = case["bytes"] / statistics.median(seconds)
            entry["copy_fraction"] = _digits(speed / ceilings["copy_bytes_per_s"])
        case["contenders"][who] = entry | {name: _digits(value) for name, value in facts[who].items()}
    return case | {"missing": outcome["missing"]}


def tables(run: dict[str, Any]) -> str:
    """One run as markdown: the operations, the objectives, training steps under them, the attacks end to end."""
    cuda = run["environment"]["kind"] == "cuda"
    cases = sorted(run["cases"], key=lambda case: case["row"])
    operations = [case for case in cases if case["row"] <= 4]
    steps = [case for case in cases if case["title"] == TRAINING_STEP]
    objectives = [case for case in cases if case["row"] in (5, 6) and case not in steps]
    variants = [case for case in cases if has_variants(case)]
    attacks = [case for case in cases if case["row"] > 6 and case not in variants]
    parts = [_headline(run)]
    if operations:
        parts.append(_operations(operations, bandwidth=cuda, time=cuda))
    if objectives:  # their target is a time, also on a CPU
        parts.append(_operations(objectives, bandwidth=False, time=True))
    if steps:
        parts.append(_steps(steps, cuda))
    if attacks:
        parts.append(by_contender(attacks, cuda))
    if variants:
        parts.append(by_case(variants))
    absent = _absent(cases)
    if run.get("cut"):  # runs before there were budgets have none
        absent.append(f"everyone: {NO_TIME} ({'; '.join(run['cut'])})")
    if absent:
        parts.append("Not run:\n" + "\n".join(f"- {line}" for line in absent))
    if run["failed"]:
        parts.append("Failed:\n" + "\n".join(f"- {suite}: {why}" for suite, why in run["failed"].items()))
    return "\n\n".join(parts) + "\n"


def details(run: dict[str, Any]) -> str:
    """Every contender of the cases of which the tables show the best variants, as markdown."""
    variants = [case for case in run["cases"] if has_variants(case)]
    return f"\nEvery contender:\n\n{by_contender(variants, time=True)}\n" if variants else ""


def _headline(run: dict[str, Any]) -> str:
    e = run["environment"]
    cuda = f", CUDA {e['cuda']}" if "cuda" in e else f", {e['threads']} threads, malloc keeps freed memory"
    lines = [f"**{e['device']}** (torch {e['torch']}{cuda}; commit {run['commit']}, {run['date']})"]
    copies = [c["copy_bytes_per_s"] for c in run["ceilings"].values()]
    products = [c["bf16_flop_per_s"] for c in run["ceilings"].values() if "bf16_flop_per_s" in c]
    if copies:
        lines.append(f"Measured beside it: copy {statistics.median(copies) / 1e9:.4g} GB/s (bytes read plus written)")
        lines[-1] += f", bf16 product {statistics.median(products) / 1e12:.3g} TFLOP/s." if products else "."
    lines.append(
        "A number such as 4.0x is their time over ours; noise is ours over ours again, middle half of the rounds."
    )
    return "\n\n".join([lines[0], " ".join(lines[1:])])


def _operations(cases: Sequence[Case], bandwidth: bool, time: bool) -> str:
    rivals = list(dict.fromkeys(who for case in cases for who in case["contenders"] if who != OURS))
    lines = [["row", "operation", "case", *(f"{who} / ours" for who in rivals), "noise"]]
    lines[0] += ["of copy bandwidth"] * bandwidth + ["time of ours"] * time
    for case in cases:
        ours = case["contenders"][OURS]
        line = [str(case["row"]), case["title"], case["case"]]
        line += [ratio_of(case["contenders"].get(who)) for who in rivals]
        line.append(noise_of(case))
        if bandwidth:
            line.append(f"{ours['copy_fraction']:.0%}" if "copy_fraction" in ours else "-")
        lines.append([*line, time_of(ours["median_s"])] if time else line)
    return markdown(lines)


def _steps(cases: Sequence[Case], cuda: bool) -> str:
    """Relative to the step on the plain cross-entropy, which is "ours"."""
    objectives = list(dict.fromkeys(who for case in cases for who in case["contenders"] if who != OURS))
    head = ["rows", "training step", *(f"{who}, beside plain" for who in objectives), "noise"]
    lines = [[*head, "time of plain"] if cuda else head]
    for case in cases:
        line = ["5, 6", f"PGD-10, {case['case']}"]
        line += [_change(case["contenders"][who]["ratio"]) if who in case["contenders"] else "-" for who in objectives]
        low, _, high = case["noise"]
        line.append(f"{low - 1:+.1%} to {high - 1:+.1%}")
        lines.append([*line, time_of(case["contenders"][OURS]["median_s"])] if cuda else line)
    return markdown(lines)


def _change(ratio: Sequence[float]) -> str:
    """The median of a ratio as a change, and the middle half of the rounds."""
    low, median, high = (value - 1 for value in ratio)
    return f"{median:+.1%} ({low:+.1%} to {high:+.1%})"


def _absent(cases: Iterable[Case]) -> list[str]:
    """Who did not run and why, with the cases."""
    where: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        reasons: dict[str, list[str]] = {}
        present = {parse(who).attacker for who in case["contenders"]}
        for who, why in case["missing"].items():
            attacker = parse(who).attacker
            reasons.setdefault(why, []).append(who if attacker in present else attacker)
        for why, names in reasons.items():
            where.setdefault(("; ".join(dict.fromkeys(names)), why), []).append(f"{case['title']} {case['case']}")
    return [f"{who}: {why} ({'; '.join(names)})" for (who, why), names in where.items()]


def _quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return [_digits(values[0])] * 3
    return [_digits(q) for q in statistics.quantiles(values, n=4, method="inclusive")]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")
