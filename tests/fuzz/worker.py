"""A process that makes calls: ``python -m tests.fuzz.worker TABLE CPU_SECONDS``.

It is given a job a line, ``[seed, number]`` or a case, and answers each with a line. It bounds its memory, and dies of
SIGPROF in a call that takes longer than so many CPU seconds, which does not depend on what else the machine does.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import Any

import torch

from .calls import Call, drawn
from .case import Case
from .trial import namespace, tried

_MEMORY = 16 << 30
"""Bytes of addresses, most of which torch's libraries and threads reserve and do not use."""


def answer(job: Any, calls: Sequence[Call], names: dict[str, Any]) -> dict[str, Any]:
    """What came of a job: the number of the function in the table, the case and the verdict."""
    if isinstance(job, list):
        call, case = drawn(calls, *job)
    else:
        call, case = calls[job["call"]], Case.from_dict(job["case"])
    verdict = tried(case, call.rule, call.writes, call.draws, call.norm, names)
    return {
        "call": calls.index(call),
        "case": case.as_dict() if verdict.violations else None,
        "outcome": verdict.outcome,
        "violations": [[one.kind, one.where] for one in verdict.violations],
    }


def main() -> None:
    table, seconds = sys.argv[1], float(sys.argv[2])
    calls = importlib.import_module(table).CALLS
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a call prints is no reply
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    torch.set_num_threads(1)
    names = namespace()
    print("ready", file=replies, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        reply = answer(job, calls, names)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
