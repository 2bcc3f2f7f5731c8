"""A call as text: the lines that make its arguments, and the call itself. Text can be run, printed and made smaller."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

HEAD = """\
import functools, math
from decimal import Decimal
from fractions import Fraction
import numpy as np
import torch
from torch import nn
import fastat
"""

DEFINITIONS = {
    "Own": "class Own(Exception): pass",
    "Mine": "class Mine(torch.Tensor): pass",
    "fail": 'def fail(x): raise Own("of the model")',
    "Output": "class Output:\n    def __init__(self, logits): self.logits = logits",
}
"""What a line may refer to beside the imports, in the order they need."""

FILE = "<case>"
"""The name of the text in tracebacks."""


@dataclass(frozen=True)
class Line:
    """``name = source``; ``plain`` is the simplest valid source of it."""

    name: str
    source: str
    plain: str


@dataclass(frozen=True)
class Case:
    """One call.

    Attributes:
        function: an expression of the function that is called.
        seed: of torch's generator, before the lines.
        lines: in the order in which they run.
        passed: names that are passed, as keywords.
    """

    function: str
    seed: int
    lines: tuple[Line, ...]
    passed: tuple[str, ...]

    @property
    def call(self) -> str:
        return f"{self.function}({', '.join(f'{name}={name}' for name in self.passed)})"

    def with_source(self, name: str, source: str) -> Case:
        return replace(
            self, lines=tuple(replace(one, source=source) if one.name == name else one for one in self.lines)
        )

    def without(self, name: str) -> Case:
        """Neither made nor passed."""
        return replace(
            self,
            lines=tuple(one for one in self.lines if one.name != name),
            passed=tuple(one for one in self.passed if one != name),
        )

    def script(self) -> str:
        """A program that makes the call."""
        text = "\n".join([*(f"{one.name} = {one.source}" for one in self.lines), self.call])
        used = text + "".join(source for name, source in DEFINITIONS.items() if name in text)
        classes = [source for name, source in DEFINITIONS.items() if name in used]
        return "\n".join([HEAD, *classes, f"torch.manual_seed({self.seed})", text, ""])

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(saved: dict[str, Any]) -> Case:
        lines = tuple(Line(**one) for one in saved["lines"])
        return Case(saved["function"], saved["seed"], lines, tuple(saved["passed"]))
