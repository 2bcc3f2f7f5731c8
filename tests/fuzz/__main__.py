"""``python -m tests.fuzz``: many hostile calls, and a script for each kind of broken promise. Exit status 1 if any."""

from __future__ import annotations

import argparse
import importlib
import sys

from .minimize import minimized
from .parent import Limits, Report, Worker, fuzzed

TABLE = "tests.fuzz.calls"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="other seeds are other calls")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    options = parser.parse_args()
    report = fuzzed(TABLE, options.calls, options.seed, options.workers)
    print(scripts(report, TABLE))
    print(summary(report, TABLE))
    return 1 if report.first else 0


def scripts(report: Report, table: str) -> str:
    """Every kind of finding as a program that shows it."""
    calls = importlib.import_module(table).CALLS
    parts = []
    with Worker(table, Limits(cpu=10.0, wall=60.0)) as worker:  # shorter: a hang is tried several times
        for key, finding in sorted(report.first.items()):
            title = f"# {calls[finding.call].function} {finding.kind} {finding.where}".rstrip()
            parts.append(f"{title} ({report.seen[key]} times)\n{minimized(finding, worker).script()}")
    return "\n".join(parts)


def summary(report: Report, table: str) -> str:
    """A line for each function and one for all."""
    calls = importlib.import_module(table).CALLS
    outcomes = ("accepted", "refused", "unmade", "died")
    rows = [[report.outcomes[i, one] for one in outcomes] for i in range(len(calls))]
    lines = [f"{'':45}" + "".join(f"{one:>10}" for one in outcomes)]
    for call, row in zip(calls, rows, strict=True):
        lines.append(f"{call.function:45}" + "".join(f"{n:10}" for n in row))
    lines.append(f"{'all':45}" + "".join(f"{sum(column):10}" for column in zip(*rows, strict=True)))
    crashes = sum(n for (_, kind, _), n in report.seen.items() if kind.startswith("crash"))
    hangs = sum(n for (_, kind, _), n in report.seen.items() if kind == "hang")
    broken = sum(report.seen.values()) - crashes - hangs
    lines.append(f"{broken} violations of {len(report.first)} kinds, {crashes} crashes, {hangs} hangs")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
