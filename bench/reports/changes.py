"""What got faster or slower since other results: our time over that of a yardstick of the same run.

The yardstick is the plain PyTorch code, which no change of ours touches; for a training step, the step on the plain
cross-entropy. A change counts only if the middle halves of both runs stay apart by more than ours differs from ours
again in either. That covers chance, not a machine that was busy throughout one of them: load costs code that uses
threads more than code that does not, so both runs need it idle.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.contests.contest import OURS
from bench.contests.timing import LEAST_ROUNDS
from bench.reports.layout import Case, markdown, time_of
from bench.reports.speed_tables import TRAINING_STEP

SLOWER, FASTER, SAME = "slower", "faster", "within noise"
YARDSTICK = "eager"
Run = dict[str, Any]
Quartiles = tuple[float, float, float]


@dataclass(frozen=True)
class Change:
    """Of one contender in one case: quartiles of its time over the yardstick's, before and now.

    Attributes:
        noise: the ratio that the case's own noise makes of nothing, the larger of both runs.
        seconds: its time before and now, if the machines are alike; else None.
    """

    row: int
    case: str
    who: str
    old: Quartiles
    new: Quartiles
    noise: float
    seconds: tuple[float, float] | None

    @property
    def verdict(self) -> str:
        """Slower, faster, or neither beyond the noise."""
        if self.new[0] > self.old[2] * self.noise:
            return SLOWER
        return FASTER if self.new[2] * self.noise < self.old[0] else SAME


def changes(earlier: Sequence[Run], run: Run) -> list[Change]:
    """Of all contenders of ours that one of the earlier runs on this device has too; the latest of those counts."""
    before: dict[tuple[str, str], tuple[Run, Case]] = {}
    for old in sorted((old for old in earlier if _same_kind(old, run)), key=lambda old: old["date"]):
        before |= {(case["title"], case["case"]): (old, case) for case in old["cases"]}
    found = []
    for case in run["cases"]:
        old, twin = before.get((case["title"], case["case"]), (None, None))
        if old is not None and twin is not None:
            found += _of_case(twin, case, _alike(old, run))
    return sorted(found, key=lambda change: change.row)


def table(found: Sequence[Change], run: Run) -> str:
    """The changes as markdown, and a sentence that sums them up."""
    if not found:
        return f"Nothing to compare: no earlier results have cases of this run on {run['environment']['device']}."
    head = ["row", "case", "who", "time over yardstick", "change", "noise of both", "verdict", "time"]
    lines = [head]
    for change in found:
        time = " -> ".join(time_of(s) for s in change.seconds) if change.seconds else "-"
        noise = f"{change.noise - 1:.1%}" if change.noise < math.inf else "unknown"
        lines.append([
            str(change.row), change.case, change.who, f"{change.old[1]:.3f} -> {change.new[1]:.3f}",
            f"{change.new[1] / change.old[1] - 1:+.1%}", noise, change.verdict, time,
        ])  # fmt: skip
    slower, faster = (sum(change.verdict == verdict for change in found) for verdict in (SLOWER, FASTER))
    counted = f"{len(found)} compared: {slower} slower, {faster} faster beyond the noise of both runs."
    return f"{markdown(lines)}\n\n{counted}"


def _of_case(old: Case, new: Case, alike: bool) -> list[Change]:
    steps = new["title"] == TRAINING_STEP
    yardstick = OURS if steps else YARDSTICK
    common = [who for who in new["contenders"] if who in old["contenders"]]
    if yardstick not in common:
        return []
    noise = max(abs(math.log(end)) for case in (old, new) for end in (case["noise"][0], case["noise"][2]))
    found = []
    for who in common:
        if who == yardstick or not (steps or who == OURS or who.startswith(f"{OURS}, ")):
            continue
        seconds = (old["contenders"][who]["median_s"], new["contenders"][who]["median_s"]) if alike else None
        quartiles = (_over(case["contenders"][who], case["contenders"][yardstick]) for case in (old, new))
        name = f"{new['title']} {new['case']}"
        rounds = min(case["contenders"][one]["rounds"] for case in (old, new) for one in (who, yardstick))
        known = rounds >= LEAST_ROUNDS  # the quartiles of fewer say nothing
        found.append(Change(new["row"], name, who, *quartiles, math.exp(noise) if known else math.inf, seconds))
    return found


def _over(contender: Case, yardstick: Case) -> Quartiles:
    """Quartiles of the time over the yardstick's, at their widest: each is known over ours only."""
    (low, middle, high), (y_low, y_middle, y_high) = contender["ratio"], yardstick["ratio"]
    return low / y_high, middle / y_middle, high / y_low


def _same_kind(old: Run, new: Run) -> bool:
    """Whether ratios can be compared."""
    return "cases" in old and all(old["environment"][key] == new["environment"][key] for key in ("kind", "device"))


def _alike(old: Run, new: Run) -> bool:
    """Whether times can be compared."""
    return all(old["environment"][key] == new["environment"][key] for key in ("device", "threads"))
