"""Runs suites, each in a process of its own, so that one that breaks its device leaves the others theirs."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.reports import speed_tables as report
from bench.reports.files import ROOT, commit, date, file_name, write

KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
"""For glibc: keep freed memory. Otherwise the temporaries of eager code cost page faults or not, up to a factor of
seven, by the luck of the heap's layout; this is the luckier case for the rivals."""
SUITES = ("linf_step", "l2_l1_step", "random_start", "attack_loss", "holistic", "objectives", "early_stop", "pgd")
LEAST_SECONDS = 15.0
"""With less time left, a suite is not started."""
_LOOK = 2.0
"""Seconds between two looks at what a suite has measured so far."""


def run_suites(device: str | None, out: Path, suites: Sequence[str], limit: float, total: float) -> Path | None:
    """Writes what the suites measure, after every case, and prints the tables.

    Args:
        device: "cpu" or "cuda"; None for the GPU if there is one.
        out: folder of the JSON and the tables.
        limit: seconds a suite may take.
        total: seconds all of them may take.

    Returns:
        The JSON; None if there is no such device.
    """
    import torch

    from bench.contests import machine
    from bench.peers import libraries

    end = time.monotonic() + total
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print("bench: no CUDA device found", file=sys.stderr)
        return None
    environment = machine.environment(torch.device(device)) | {"peers": libraries.versions(), "variables": variables()}
    run: dict[str, Any] = {"environment": environment, "commit": commit(), "date": date()}
    run |= {"ceilings": {}, "cases": [], "cut": [], "failed": {}}
    name = file_name(environment)
    if tuple(suites) != SUITES:  # some of them do not overwrite what all of them wrote
        name = "-".join([name, *suites])

    def keep(run: dict[str, Any]) -> None:
        write(out / f"{name}.json", json.dumps(run, indent=1) + "\n")
        write(out / f"{name}.md", report.tables(run) + report.details(run))

    for suite in suites:
        start, before = time.monotonic(), run
        seconds = min(limit, end - start)
        if seconds < LEAST_SECONDS:
            run = {**run, "cut": [*run["cut"], f"suite {suite}"]}
            keep(run)
            continue
        raw, failure = run_suite(suite, device, seconds, lambda raw: keep(with_suite(before, suite, raw)))  # noqa: B023
        run = before if raw is None else with_suite(before, suite, raw)
        if failure:
            run = {**run, "failed": {**run["failed"], suite: failure.splitlines()[0]}}
            print(failure, file=sys.stderr)
        keep(run)
        print(f"bench: {suite} {'FAILED' if failure else 'done'} in {time.monotonic() - start:.0f} s", flush=True)
    print("\n" + report.tables(run))
    return out / f"{name}.json"


def with_suite(run: dict[str, Any], suite: str, raw: dict[str, Any]) -> dict[str, Any]:
    """The run with what this suite has measured."""
    return {
        **run,
        "ceilings": {**run["ceilings"], suite: raw["ceilings"]},
        "cases": run["cases"] + report.cases_of(raw),
        "cut": run["cut"] + raw["cut"],
    }


def run_suite(
    suite: str, device: str, limit: float, progress: Callable[[dict[str, Any]], None]
) -> tuple[dict[str, Any] | None, str]:
    """What the suite measured, and why it failed ("" if it did not); ``progress`` is told what there is so far."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "measured.json"
        command = [
            sys.executable, "-m", "pytest", f"bench/suites/bench_{suite}.py", "-q", "-p", "no:cacheprovider",
            "-p", "no:xdist",
            f"--bench-device={device}", f"--bench-json={file}", f"--bench-limit={limit}",
            "--benchmark-columns=median,iqr,rounds",
        ]  # fmt: skip
        seen = 0

        def look() -> None:
            nonlocal seen
            if file.exists() and file.stat().st_mtime_ns != seen:
                seen = file.stat().st_mtime_ns
                progress(json.loads(file.read_text()))

        output, status = limited(command, limit, look)
        raw = json.loads(file.read_text()) if file.exists() else None
    if status == 0:
        return raw, ""
    reason = f"stopped after {limit:.0f} s" if status is None else f"pytest ended with status {status}"
    return raw, "\n".join([reason, *output.splitlines()[-60:]])


def limited(command: list[str], limit: float, look: Callable[[], None]) -> tuple[str, int | None]:
    """Output and exit status; None for one that ran out of time and was told to wrap up."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | KEEP_MEMORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=_LOOK)[0], process.returncode
            look()
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=20)[0], None
        return "", None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def variables() -> dict[str, str]:
    """The environment variables that the suites run under and that the times depend on."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT")
    return {name: os.environ[name] for name in names if name in os.environ} | KEEP_MEMORY
