"""What is kept of a run: one compact JSON with ratios, and the tables made from it."""

import json
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.contest import AGAIN, OURS

Case = dict[str, Any]
BEGIN, END = "<!-- speed:begin -->", "<!-- speed:end -->"
TRAINING_STEP = "training step"
"""Title of the cases whose contenders are objectives: "ours" is the plain cross-entropy."""


def cases_of(raw: dict[str, Any]) -> list[Case]:
    """The cases in a JSON of pytest-benchmark, each with its contenders' times relative to ours.

    A ratio is their time over ours (the mean of its two turns) within a round: the median over the rounds, and the
    quartiles. The noise of a case is the same for ours against ours again.
    """
    found: dict[tuple[str, str], Case] = {}
    for entry in raw["benchmarks"]:
        info = entry["extra_info"]
        case = found.setdefault(
            (info["title"], info["case"]),
            {"row": info["row"], "title": info["title"], "case": info["case"], "bytes": info["bytes"], "times": {}},
        )
        case["times"][info["who"]] = entry["stats"]["data"]
        case.setdefault("facts", {})[info["who"]] = info["facts"]
    return [_compact(case, raw) for case in found.values()]


def _compact(case: Case, raw: dict[str, Any]) -> Case:
    times, facts = case.pop("times"), case.pop("facts")
    ours = [(a + b) / 2 for a, b in zip(times[OURS], times[AGAIN], strict=True)]
    case["noise"] = _quartiles([b / a for a, b in zip(times[OURS], times[AGAIN], strict=True)])
    case["contenders"] = {}
    for who, seconds in times.items():
        if who == AGAIN:
            continue
        seconds = ours if who == OURS else seconds
        ratios = _quartiles([s / o for s, o in zip(seconds, ours, strict=True)])
        entry = {"median_s": _digits(statistics.median(seconds)), "rounds": len(seconds), "ratio": ratios}
        if case["bytes"]:
            speed = case["bytes"] / statistics.median(seconds)
            entry["copy_fraction"] = _digits(speed / raw["ceilings"]["copy_bytes_per_s"])
        case["contenders"][who] = entry | {name: _digits(value) for name, value in facts[who].items()}
    here = (case["title"], case["case"])
    case["missing"] = {m["who"]: m["reason"] for m in raw["missing"] if (m["title"], m["case"]) == here}
    return case


def write(path: Path, text: str) -> None:
    """Writes a file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    os.replace(part, path)


def tables(run: dict[str, Any]) -> str:
    """One run as markdown: the operations, the objectives, training steps under them, the attacks end to end."""
    cuda = run["environment"]["kind"] == "cuda"
    cases = sorted(run["cases"], key=lambda case: case["row"])
    operations = [case for case in cases if case["row"] <= 4]
    steps = [case for case in cases if case["title"] == TRAINING_STEP]
    objectives = [case for case in cases if case["row"] in (5, 6) and case not in steps]
    attacks = [case for case in cases if case["row"] > 6]
    parts = [_headline(run)]
    if operations:
        parts.append(_operations(operations, bandwidth=cuda, time=cuda))
    if objectives:  # their target is a time, also on a CPU
        parts.append(_operations(objectives, bandwidth=False, time=True))
    if steps:
        parts.append(_steps(steps, cuda))
    if attacks:
        parts.append(_attacks(attacks, cuda))
    absent = _absent(cases)
    if absent:
        parts.append("Not run:\n" + "\n".join(f"- {line}" for line in absent))
    if run["failed"]:
        parts.append("Failed:\n" + "\n".join(f"- {suite}: {why}" for suite, why in run["failed"].items()))
    return "\n\n".join(parts) + "\n"


def into_readme(readme: Path, text: str) -> bool:
    """Replaces what lies between the markers; False if the file has none."""
    old = readme.read_text()
    new, count = re.subn(f"{BEGIN}.*?{END}", lambda _: f"{BEGIN}\n{text}{END}", old, flags=re.DOTALL)
    if count:
        write(readme, new)
    return count > 0


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
        line += [_ratio(case["contenders"].get(who)) for who in rivals]
        line.append(_noise(case))
        if bandwidth:
            line.append(f"{ours['copy_fraction']:.0%}" if "copy_fraction" in ours else "-")
        lines.append([*line, _time(ours["median_s"])] if time else line)
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
        lines.append([*line, _time(case["contenders"][OURS]["median_s"])] if cuda else line)
    return markdown(lines)


def _change(ratio: Sequence[float]) -> str:
    """The median of a ratio as a change, and the middle half of the rounds."""
    low, median, high = (value - 1 for value in ratio)
    return f"{median:+.1%} ({low:+.1%} to {high:+.1%})"


def _attacks(cases: Sequence[Case], cuda: bool) -> str:
    head = ["row", "attack", "case", "contender", "time / ours", "attack success", "loss reached", "noise"]
    lines = [[*head, "time"] if cuda else head]
    for case in cases:
        order = sorted(case["contenders"], key=lambda who: (who != OURS, case["contenders"][who]["ratio"][1]))
        for who in order:
            c = case["contenders"][who]
            first = [str(case["row"]), case["title"], case["case"]] if who == OURS else ["", "", ""]
            success = f"{c['success']:.1%}" if "success" in c else ""
            line = [*first, who, _ratio(c), success, f"{c['loss']:.3f}" if "loss" in c else ""]
            line.append(_noise(case) if who == OURS else "")
            lines.append([*line, _time(c["median_s"])] if cuda else line)
    return markdown(lines)


def _absent(cases: Iterable[Case]) -> list[str]:
    """Who did not run and why, with the cases."""
    where: dict[tuple[str, str], list[str]] = {}
    for case in cases:
        reasons: dict[str, list[str]] = {}
        for who, why in case["missing"].items():
            reasons.setdefault(why, []).append(who)
        for why, names in reasons.items():
            where.setdefault((", ".join(names), why), []).append(f"{case['title']} {case['case']}")
    return [f"{who}: {why} ({'; '.join(names)})" for (who, why), names in where.items()]


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table that reads as well in a terminal."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rows.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(rows)


def _ratio(contender: Case | None) -> str:
    return f"{contender['ratio'][1]:.2f}x" if contender else "-"


def _noise(case: Case) -> str:
    low, _, high = case["noise"]
    return f"{low:.2f} to {high:.2f}"


def _time(seconds: float) -> str:
    scale, unit = (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{seconds * scale:.3g} {unit}"


def _quartiles(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return [_digits(values[0])] * 3
    return [_digits(q) for q in statistics.quantiles(values, n=4, method="inclusive")]


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def load(path: Path) -> dict[str, Any]:
    """A file that :mod:`bench.__main__` wrote."""
    return json.loads(path.read_text())
