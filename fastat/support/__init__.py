"""What several rooms need: threat models, keyed random numbers, files, groups of processes, names that were meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean", "distributed", "files", "foreign_json", "keyed", "threat"]


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """What ends a message about a name that is not known: the one that was meant perhaps, or nothing."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
