"""What every experiment returns: numbers, what they say of the paper's claims, and pictures of them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from fastat.kernels import describe_environment
from fastat.support.files import write_bytes, write_json

RESULTS, STATEMENT, FIGURES = "results.json", "statement.md", "figures"

Verdict = Literal["reproduced", "partly", "not reproduced", "not tested"]


@dataclass(frozen=True)
class Finding:
    """A claim of the paper, and what the numbers say of it.

    Attributes:
        claim: what the paper states.
        verdict: whether it was seen.
        evidence: a sentence with the numbers, computed from the result.
    """

    claim: str
    verdict: Verdict
    evidence: str


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its file in the folder of the figures, and a caption."""

    file: str
    caption: str


@dataclass(frozen=True)
class Result(ABC):
    """The outcome of an experiment; the fields of each hold its settings and its numbers, JSON values all of them."""

    experiment: ClassVar[str]
    """The name of the experiment's command."""
    title: ClassVar[str]
    """A heading for pages."""

    settings: Any

    @abstractmethod
    def findings(self) -> list[Finding]:
        """What was and was not reproduced, with numbers."""

    @abstractmethod
    def plot(self, folder: Path) -> list[Picture]:
        """Draws the figures into the folder, which exists, and returns them in the order to show them."""

    def save(self, folder: str | Path) -> None:
        """Writes results.json, statement.md and figures/*.png into the folder, which is made if missing."""
        place = Path(folder)
        (place / FIGURES).mkdir(parents=True, exist_ok=True)
        pictures = self.plot(place / FIGURES)
        findings = self.findings()
        write_bytes(place / STATEMENT, _statement(self.title, findings, pictures).encode())
        about = {
            "experiment": self.experiment,
            "title": self.title,
            "findings": [dataclasses.asdict(finding) for finding in findings],
            "figures": [dataclasses.asdict(picture) for picture in pictures],
            "environment": describe_environment(),
        }
        write_json(place / RESULTS, about | dataclasses.asdict(self))  # last: where it is, all is there


def _statement(title: str, findings: list[Finding], pictures: list[Picture]) -> str:
    lines = [f"# {title}", "", "| claim | here | numbers |", "| --- | --- | --- |"]
    lines += [f"| {_cell(f.claim)} | {f.verdict} | {_cell(f.evidence)} |" for f in findings]
    for picture in pictures:
        lines += ["", f"![{picture.caption}]({FIGURES}/{picture.file})", "", picture.caption]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
