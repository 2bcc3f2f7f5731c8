"""Runs the suites: one module-wide contest per case, one test per contender.

A suite is a module with ROW, TITLE, WHO (names of contenders), ``cases(device)``, ``contest(case, device)`` and one
test that records the contender ``who`` of the ``outcome``. A case may have a ``row`` and a ``title`` of its own.
"""

from dataclasses import replace

import pytest
import torch

from bench import timing
from bench.contest import Outcome, hold

MISSING = pytest.StashKey[list[dict[str, object]]]()


def pytest_addoption(parser):
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.addoption("--bench-device", default=default, choices=["cpu", "cuda"], help=f"default here: {default}")


def pytest_configure(config):
    config.stash[MISSING] = []
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
    device = torch.device(request.config.getoption("bench_device"))
    suite = request.module
    row, title = getattr(request.param, "row", suite.ROW), getattr(request.param, "title", suite.TITLE)
    label = {"row": row, "title": title, "case": str(request.param)}
    held = hold(suite.contest(request.param, device), device)
    request.config.stash[MISSING] += [{**label, "who": name, "reason": why} for name, why in held.missing.items()]
    return replace(held, label=label)


def pytest_benchmark_update_json(config, benchmarks, output_json):
    device = torch.device(config.getoption("bench_device"))
    output_json["environment"] = timing.environment(device)
    output_json["ceilings"] = timing.ceilings(device)
    output_json["missing"] = config.stash[MISSING]
