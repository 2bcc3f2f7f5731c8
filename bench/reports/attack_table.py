"""The tables of end-to-end attacks: a line per case for readers, a line per contender for those who want everything."""

import math
from collections.abc import Callable, Sequence

from bench.contests.contest import OURS
from bench.contests.timing import LEAST_ROUNDS
from bench.peers import attackers
from bench.peers.attackers import ALONE, TEXTBOOK, Contender
from bench.peers.libraries import PEERS
from bench.reports.layout import Case, markdown, noise_of, ratio_of, time_of

SURELY_WEAKER = 1e-3
"""Below this chance, what fools fewer images than the textbook loop is no equal of it."""
LEAST_SHARE = 0.9
"""Nor is what fools less than this share of the images that the textbook loop fools and raises the mean loss by less
than this share of what it does: few images prove little. One alone may be a choice: adv-lib leaves an image that it
cannot fool as it was."""
WEAKER = "weaker"
LETTERS = {"graph": "g", "frozen": "f", "channels_last": "l", "compile": "c", "reduce-overhead": "r"}
LEGEND = (
    "Attacks end to end: a number is the time over that of the fastest of ours. Before the slash, the fastest of the "
    "variants that everyone is given alike: f parameters frozen, l channels_last, c the model under torch.compile, r "
    "under its reduce-overhead mode, g one CUDA graph; with any of them the parameters are frozen, as ours does by "
    "itself, since some attacks compute their gradients otherwise. After the slash, as is: called as documented. "
    "Model alone is the floor: its forward passes and input gradients."
)


def counts(case: Case, name: str) -> bool:
    """Whether a contender is as strong as the textbook loop, as far as the images of the case can tell."""
    contender = case["contenders"][name]
    fooled = case["contenders"].get(TEXTBOOK, {}).get("success", 0.0)
    share = contender.get("success", 1.0) / fooled if fooled else 0.0
    return contender.get("p_as_strong", 1.0) >= SURELY_WEAKER and max(share, contender.get("gain", 1.0)) >= LEAST_SHARE


def has_variants(case: Case) -> bool:
    """Whether the contenders of the case are attackers with levers."""
    return any("p_as_strong" in contender for contender in case["contenders"].values())


def best(case: Case, wanted: Callable[[Contender], bool]) -> str | None:
    """The fastest of those that count, among the ones that were timed longest."""
    names = [name for name in case["contenders"] if wanted(attackers.parse(name)) and counts(case, name)]
    most = max((case["contenders"][name]["rounds"] for name in names), default=0)
    names = [name for name in names if case["contenders"][name]["rounds"] == most]
    return min(names, key=lambda name: case["contenders"][name]["ratio"][1], default=None)


def by_case(cases: Sequence[Case]) -> str:
    """A line per case: ours in its variants, and the best variant of everyone else."""
    rivals = [name for name in (TEXTBOOK, *PEERS) if any(_has(case, name) for case in cases)]
    graph = any(name and "graph" in name for case in cases for name in case["contenders"])
    ours: list[tuple[str, Callable[[Contender], bool]]] = [
        ("ours", lambda c: c == Contender(OURS)),
        ("ours, compile", lambda c: c.attacker == OURS and "compile" in c.levers and "graph" not in c.levers),
    ]
    if graph:
        ours.append(("ours, graph", lambda c: c.attacker == OURS and "graph" in c.levers))
    head = ["row", "attack", "case", *(name for name, _ in ours), *(f"{name}, best / as is" for name in rivals)]
    lines = [[*head, f"{ALONE}, best", "success, ours / eager", "noise", "fastest of ours"]]
    for case in cases:
        fastest = _fastest(case)
        line = [str(case["row"]), case["title"], case["case"]]
        line += [_cell(case, best(case, wanted), fastest) for _, wanted in ours]
        for name in rivals:
            cell = _cell(case, best(case, lambda c, name=name: c.attacker == name), fastest)
            documented = _cell(case, best(case, lambda c, name=name: c == Contender(name)), fastest)
            shown = [WEAKER if found == "-" and _has(case, name) else found for found in (cell, documented)]
            line.append(" / ".join(dict.fromkeys(shown)))
        line.append(_cell(case, best(case, lambda c: c.attacker == ALONE), fastest))
        line.append(" / ".join(_success(case["contenders"].get(name)) for name in (fastest, TEXTBOOK)))
        line += [noise_of(case), time_of(case["contenders"][fastest]["median_s"]) + _levers(fastest)]
        lines.append(line)
    return "\n\n".join([LEGEND, markdown(lines), in_short(cases), *_weaker(cases)])


def in_short(cases: Sequence[Case]) -> str:
    """A sentence on whether ours is faster than the best variant of the fastest rival, beyond the noise of the case."""
    verdicts, documented = {"faster": 0, "slower": 0, "within the noise": 0}, []
    for case in cases:
        ours = _fastest(case)
        rival = best(case, lambda c: c.attacker not in (OURS, ALONE))
        if rival is None or case["contenders"][rival]["rounds"] < LEAST_ROUNDS:  # cut short: it says nothing
            continue
        noise = max(abs(math.log(end)) for end in (case["noise"][0], case["noise"][2]))
        ahead = math.log(_ratio(case, rival) / _ratio(case, ours))
        verdicts["within the noise" if abs(ahead) <= noise else "faster" if ahead > 0 else "slower"] += 1
        if TEXTBOOK in case["contenders"]:
            documented.append(_ratio(case, TEXTBOOK) / _ratio(case, ours))
    counted = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    text = f"The fastest of ours against the fastest of all variants of everyone else: {counted}."
    if documented:
        text += f" Against the textbook loop as it is: {min(documented):.2f}x to {max(documented):.2f}x as fast."
    return text


def by_contender(cases: Sequence[Case], time: bool) -> str:
    """A line per contender, the fastest first."""
    head = ["row", "attack", "case", "contender", "time / ours", "attack success", "loss reached", "noise"]
    lines = [[*head, "time"] if time else head]
    for case in cases:
        order = sorted(case["contenders"], key=lambda who: (who != OURS, case["contenders"][who]["ratio"][1]))
        for who in order:
            c = case["contenders"][who]
            first = [str(case["row"]), case["title"], case["case"]] if who == OURS else ["", "", ""]
            success = _success(c) if "success" in c else ""
            line = [*first, who, ratio_of(c), success if counts(case, who) else f"{success}, weaker"]
            line += [f"{c['loss']:.3f}" if "loss" in c else "", noise_of(case) if who == OURS else ""]
            lines.append([*line, time_of(c["median_s"])] if time else line)
    return markdown(lines)


def _has(case: Case, attacker: str) -> bool:
    return any(attackers.parse(name).attacker == attacker for name in case["contenders"])


def _fastest(case: Case) -> str:
    found = best(case, lambda c: c.attacker == OURS)
    assert found is not None
    return found


def _ratio(case: Case, name: str) -> float:
    return case["contenders"][name]["ratio"][1]


def _cell(case: Case, name: str | None, fastest: str) -> str:
    return "-" if name is None else f"{_ratio(case, name) / _ratio(case, fastest):.2f}x{_levers(name)}"


def _levers(name: str) -> str:
    letters = "+".join(LETTERS[lever] for lever in attackers.parse(name).levers)
    return f" ({letters})" if letters else ""


def _success(contender: Case | None) -> str:
    return f"{contender['success']:.1%}" if contender else "-"


def _weaker(cases: Sequence[Case]) -> list[str]:
    """A paragraph that names who does not count, or nothing."""
    found = [f"{name} ({case['case']})" for case in cases for name in case["contenders"] if not counts(case, name)]
    if not found:
        return []
    why = "by a sign test, or with less than 90% both of the images that it fools and of its rise of the loss"
    return [f"Not counted, as weaker than the textbook loop ({why}): {'; '.join(found)}."]
