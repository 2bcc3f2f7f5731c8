"""No hostile call breaks a promise; and of functions with planted faults the fuzzer finds each."""

import subprocess
import sys

import pytest

import fastat

from . import calls, planted
from .__main__ import TABLE, scripts, summary
from .case import Case
from .minimize import minimized
from .parent import ROOT, Limits, Report, Worker, fuzzed

PLANTED = "tests.fuzz.planted"
SEED = 2  # of few crashes and hangs, each of which costs a new process


@pytest.fixture(scope="module")
def found() -> Report:
    """Of the planted faults. The hang computes without end, so that no load of the machine decides."""
    return fuzzed(PLANTED, calls=150, seed=SEED, limits=Limits(cpu=5.0))


def test_hostile_calls_break_no_promise():
    report = fuzzed(TABLE, calls=20_000, seed=1)
    assert sum(report.outcomes.values()) == 20_000
    assert sum(n for (_, outcome), n in report.outcomes.items() if outcome == "accepted") > 8_000
    assert not report.first, scripts(report, TABLE) + summary(report, TABLE)


@pytest.mark.parametrize("fault", planted.FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_found(found, fault):
    index = list(planted.FAULTS).index(fault)
    assert planted.FAULTS[fault] in {kind for call, kind, _ in found.first if call == index}


def test_what_keeps_its_promises_is_not_found(found):
    last = len(planted.CALLS) - 1
    assert sum(n for (call, _), n in found.outcomes.items() if call == last) > 0
    assert last not in {call for call, _, _ in found.first}


def test_a_worker_that_died_is_replaced(found):
    died = [i for i, fault in enumerate(planted.FAULTS) if fault in (planted.crashes, planted.hangs)]
    assert sum(found.outcomes.values()) == 150
    assert all(found.outcomes[i, "died"] > 0 for i in died)


def test_a_worker_that_waits_for_ever_is_given_up():
    sleep = Case("(lambda: __import__('time').sleep(10**6))", 0, (), ())
    with Worker(PLANTED, Limits(wall=1.0)) as worker:
        assert worker.ask({"call": 0, "case": sleep.as_dict()}) == "hang"


def test_a_finding_is_minimized_to_a_script_that_shows_it(found):
    finding = next(one for one in found.first.values() if one.kind == "raised IndexError")
    with Worker(PLANTED, Limits()) as worker:
        small = minimized(finding, worker)
    assert len(small.script()) < len(Case.from_dict(finding.case).script())
    done = subprocess.run([sys.executable, "-c", small.script()], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "IndexError" in done.stderr


def test_calls_are_functions_of_seed_and_number():
    made = [calls.drawn(calls.CALLS, 1, number)[1] for number in range(200)]
    assert made == [calls.drawn(calls.CALLS, 1, number)[1] for number in range(200)]
    assert made[0] != calls.drawn(calls.CALLS, 2, 0)[1]


def test_every_public_function_of_tensors_is_called():
    called = {call.function.removeprefix("fastat.") for call in calls.CALLS}
    ops = {name for name in fastat.__all__ if callable(getattr(fastat.ops, name, None))}
    losses = {name for name in fastat.__all__ if hasattr(fastat.objectives, name)}
    assert len(ops) >= 7 and len(losses) >= 10
    assert not {*ops, *losses, "fgsm", "pgd", "evaluate", "protocol"} - called
