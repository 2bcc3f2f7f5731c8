"""How numbers and tables are written."""

from collections.abc import Sequence
from typing import Any

Case = dict[str, Any]
"""One case of a run, as :func:`bench.reports.speed_tables.cases_of` makes it."""


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table that reads as well in a terminal."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rows = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]
    rows.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(rows)


def fill(page: str, tables: dict[str, str]) -> str:
    """The page with each table between its markers replaced."""
    for name, table in tables.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise SystemExit(f"the page has no one place for the table {name}")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{table.rstrip()}\n{end}{rest.partition(end)[2]}"
    return page


def ratio_of(contender: Case | None) -> str:
    """The median of their time over ours."""
    return f"{contender['ratio'][1]:.2f}x" if contender else "-"


def noise_of(case: Case) -> str:
    """Ours over ours again, the middle half of the rounds."""
    low, _, high = case["noise"]
    return f"{low:.2f} to {high:.2f}"


def time_of(seconds: float) -> str:
    """With the unit that fits."""
    if seconds >= 1:
        return f"{seconds:.3g} s"
    scale, unit = (1e3, "ms") if seconds >= 1e-3 else (1e6, "us")
    return f"{seconds * scale:.3g} {unit}"
