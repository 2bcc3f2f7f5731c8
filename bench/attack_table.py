"""The tables of end-to-end attacks: a line per case for readers, a line per contender for those who want everything."""

from collections.abc import Callable, Sequence

from bench import attackers
from bench.attackers import ALONE, OURS, TEXTBOOK, Contender
from bench.layout import Case, markdown, noise_of, ratio_of, time_of

SURELY_WEAKER = 1e-3
"""Below this chance, what fools fewer images than the textbook loop is no equal of it."""
LETTERS = {"graph": "g", "channels_last": "l", "compile": "c"}
LEGEND = (
    "Attacks end to end: a number is the time over that of the fastest of ours; best is the fastest of the variants "
    "that everyone is given alike, in parentheses: l channels_last, c the model under torch.compile, g one CUDA graph, "
    "nothing for the call as documented. With any of them the parameters are frozen: some attacks compute their "
    "gradients otherwise. Model alone is the floor: its forward passes and input gradients."
)


def counts(contender: Case) -> bool:
    """Whether it is as strong as the textbook loop, as far as the images of the case can tell."""
    return contender.get("p_as_strong", 1.0) >= SURELY_WEAKER


def has_variants(case: Case) -> bool:
    """Whether the contenders of the case are attackers with levers."""
    return any("p_as_strong" in contender for contender in case["contenders"].values())


def best(case: Case, wanted: Callable[[Contender], bool]) -> str | None:
    """The fastest of those that count."""
    names = [name for name, c in case["contenders"].items() if wanted(attackers.parse(name)) and counts(c)]
    return min(names, key=lambda name: case["contenders"][name]["ratio"][1], default=None)


def by_case(cases: Sequence[Case]) -> str:
    """A line per case: ours in its variants, and the best variant of everyone else."""
    rivals = [name for name in (TEXTBOOK, *attackers.peers.PEERS) if any(_has(case, name) for case in cases)]
    graph = any(name and "graph" in name for case in cases for name in case["contenders"])
    ours: list[tuple[str, Callable[[Contender], bool]]] = [
        ("ours", lambda c: c == Contender(OURS)),
        ("ours, compile", lambda c: c.attacker == OURS and "compile" in c.levers and "graph" not in c.levers),
    ]
    if graph:
        ours.append(("ours, graph", lambda c: c.attacker == OURS and "graph" in c.levers))
    head = ["row", "attack", "case", *(name for name, _ in ours), TEXTBOOK, *(f"{name}, best" for name in rivals)]
    lines = [[*head, f"{ALONE}, best", "success, ours / eager", "noise", "fastest of ours"]]
    for case in cases:
        fastest = best(case, lambda c: c.attacker == OURS)
        assert fastest is not None
        line = [str(case["row"]), case["title"], case["case"]]
        line += [_cell(case, best(case, wanted), fastest) for _, wanted in ours]
        line.append(_cell(case, best(case, lambda c: c == Contender(TEXTBOOK)), fastest))
        for name in (*rivals, ALONE):
            cell = _cell(case, best(case, lambda c, name=name: c.attacker == name), fastest)
            line.append("weaker" if cell == "-" and _has(case, name) else cell)
        line.append(" / ".join(_success(case["contenders"].get(name)) for name in (fastest, TEXTBOOK)))
        line += [noise_of(case), time_of(case["contenders"][fastest]["median_s"]) + _levers(fastest)]
        lines.append(line)
    return "\n\n".join([LEGEND, markdown(lines), *_weaker(cases)])


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
            line = [*first, who, ratio_of(c), success if counts(c) else f"{success}, weaker"]
            line += [f"{c['loss']:.3f}" if "loss" in c else "", noise_of(case) if who == OURS else ""]
            lines.append([*line, time_of(c["median_s"])] if time else line)
    return markdown(lines)


def _has(case: Case, attacker: str) -> bool:
    return any(attackers.parse(name).attacker == attacker for name in case["contenders"])


def _cell(case: Case, name: str | None, fastest: str) -> str:
    if name is None:
        return "-"
    ratio = case["contenders"][name]["ratio"][1] / case["contenders"][fastest]["ratio"][1]
    return f"{ratio:.2f}x{_levers(name)}"


def _levers(name: str) -> str:
    letters = "+".join(LETTERS[lever] for lever in attackers.parse(name).levers)
    return f" ({letters})" if letters else ""


def _success(contender: Case | None) -> str:
    return f"{contender['success']:.1%}" if contender else "-"


def _weaker(cases: Sequence[Case]) -> list[str]:
    """A paragraph that names who does not count, or nothing."""
    found = [f"{name} ({case['case']})" for case in cases for name, c in case["contenders"].items() if not counts(c)]
    if not found:
        return []
    return [f"Weaker than the textbook loop beyond chance, and not counted: {'; '.join(found)}."]
