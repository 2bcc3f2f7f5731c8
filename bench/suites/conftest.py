"""Runs the suites: one module-wide contest per case, one test per contender.

A suite is a module with ROW, TITLE, WHO (names of contenders), ``cases(device)``, ``contest(case, device)`` and one
test that records the contender ``who`` of the ``outcome``. A case may have a ``row`` and a ``title`` of its own.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.contests.contest import NO_TIME, Outcome, hold
from bench.contests.machine import ceilings
from bench.reports.files import write

LEAST_SECONDS = 20.0
"""With less time left, a case is cut."""


@dataclass
class Found:
    """What the session has measured so far."""

    end: float
    ceilings: dict[str, float] = field(default_factory=dict)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    def save(self, path: Path | None) -> None:
        """Writes all of it; what JSON does not know, a dtype say, by its name."""
        if path:
            write(
                path, json.dumps({"ceilings": self.ceilings, "outcomes": self.outcomes, "cut": self.cut}, default=str)
            )


FOUND = pytest.StashKey[Found]()


def pytest_addoption(parser):
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.addoption("--bench-device", default=default, choices=["cpu", "cuda"], help=f"default here: {default}")
    parser.addoption("--bench-json", type=Path, help="what was measured, written again after every case")
    parser.addoption("--bench-limit", type=float, default=math.inf, help="seconds to be done in: later cases are cut")


def pytest_configure(config):
    config.stash[FOUND] = Found(time.monotonic() + config.getoption("bench_limit"))
    if config.getoption("bench_device") == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError("--bench-device cuda: no CUDA device found")


def pytest_generate_tests(metafunc):
    if "outcome" in metafunc.fixturenames:
        cases = metafunc.module.cases(torch.device(metafunc.config.getoption("bench_device")))
        metafunc.parametrize("outcome", cases, indirect=True, ids=str, scope="module")
        metafunc.parametrize("who", metafunc.module.WHO)


@pytest.fixture(scope="module")
def outcome(request) -> Outcome:
    """The contest of one case, checked and timed."""
    device, file = torch.device(request.config.getoption("bench_device")), request.config.getoption("bench_json")
    suite, case, found = request.module, request.param, request.config.stash[FOUND]
    label = {"row": getattr(case, "row", suite.ROW), "title": getattr(case, "title", suite.TITLE), "case": str(case)}
    if time.monotonic() + LEAST_SECONDS > found.end:
        found.cut.append(f"{label['title']} {label['case']}")
        found.save(file)
        pytest.skip(NO_TIME)
    if not found.ceilings:
        found.ceilings = ceilings(device)
    held = hold(suite.contest(case, device), device, found.end)
    held = replace(held, label={**label, "settings": asdict(case)})
    found.outcomes.append(asdict(held))
    found.save(file)
    return held
