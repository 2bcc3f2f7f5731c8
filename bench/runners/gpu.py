"""Everything that needs a GPU, in one command of at most six minutes (what ``make gpu`` runs):

    python bench/runners/gpu.py [build] [tests] [memcheck] [bench] [racecheck]

builds the extension in place for this GPU, runs tests/cuda (in several processes where pytest-xdist is there), repeats
its smallest shapes under compute-sanitizer, and times the benchmark rows. Without arguments, all of it; for a first run
on a new kind of device, ``build tests`` and then ``bench`` in a call of its own leave more time for each. Uses the
Python it runs under and nothing from a network.

Results go to the folder $OUT, else to bench/results: ``gpu.log`` (everything printed), ``gpu.json`` (how each part
went) and what ``python -m bench`` writes. Each part has a share of the time, and what it found is written when it ends,
so that a run cut off leaves what it had. Exit status 1 if the build, a test, a memory check or a benchmark's check
fails; later parts run all the same.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
TOTAL_SECONDS = 360
WRAP_UP = 30
"""Seconds that the benchmarks may need beyond what they are told: to stop in the middle of something, to report."""
LAST_WORDS = 15
"""Seconds between asking a part to stop and stopping it."""
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
SMALL = "tests/cuda/test_cuda_branches.py"
LARGE = "tests/cuda/test_cuda_large.py"
"""Takes most of the memory of a GPU: not beside other tests."""
PROCESSES = 6
"""Of the other tests: one waits for its CPU most of the time."""

PROBE = """
import json, torch
n = torch.cuda.device_count() if torch.version.cuda else 0
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda,
                  "devices": [torch.cuda.get_device_name(i) for i in range(n)],
                  "archs": sorted({"%d.%d" % torch.cuda.get_device_capability(i) for i in range(n)})}))
"""

BUILT = """
from fastat import build_info
info = build_info()
print({k: info[k] for k in ("version", "torch", "cuda", "archs", "compiler")})
raise SystemExit(0 if info["cuda"] else "the extension was built without CUDA code")
"""


@dataclass(frozen=True)
class Result:
    """How a part went: "passed", "failed" or "skipped", and why or what it found."""

    part: str
    outcome: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Setting:
    """Where the parts run and report."""

    archs: list[str]
    log: TextIO
    out: Path

    def say(self, text: str, quiet: bool = False) -> None:
        """Logs a line, and prints it."""
        if not quiet:
            print(text, flush=True)
        self.log.write(text + "\n")
        self.log.flush()


def build(setting: Setting, limit: float) -> tuple[str, str]:
    """Compiles in place, for the architectures of the GPUs present only."""
    archs = os.environ.get("FASTAT_ARCHS") or " ".join(setting.archs)
    if not archs:
        return "failed", "no CUDA device found to build for (FASTAT_ARCHS names architectures where there is none)"
    environment = {"FASTAT_CUDA": "1", "FASTAT_ARCHS": archs}
    status, text = run(setting, [sys.executable, "setup.py", "build_ext", "--inplace"], limit, environment, quiet=True)
    if status == 0:
        status, text = run(setting, [sys.executable, "-c", BUILT], 60)
    else:
        print("\n".join(text.splitlines()[-30:]))
    return ("passed", f"for {archs}") if status == 0 else ("failed", why(status, text, limit))


def tests(setting: Setting, limit: float) -> tuple[str, str]:
    """tests/cuda; a run that skips everything has not passed."""
    if not setting.archs:
        return "failed", "no CUDA device found: tests/cuda would skip everything"
    command = [*PYTEST, "-rfE", "--tb=short", "--maxfail=40", "--durations=10"]
    runs = [["tests/cuda"]]
    if find_spec("xdist"):
        runs = [["-n", str(PROCESSES), "--dist", "worksteal", "tests/cuda", f"--ignore={LARGE}"], [LARGE]]
    end, passed, details = time.monotonic() + limit, True, []
    for arguments in runs:
        left = end - time.monotonic()
        status, text = run(setting, [*command, *arguments], left, ask=True)
        summary = last_line(text)
        passed = passed and status == 0 and " passed" in summary
        details.append(summary or why(status, text, left))
    return ("passed" if passed else "failed"), "; ".join(details)


def sanitizer(tool: str) -> Callable[[Setting, float], tuple[str, str]]:
    """One of compute-sanitizer's tools over the smallest shapes that reach every launch branch."""

    def part(setting: Setting, limit: float) -> tuple[str, str]:
        if not setting.archs:
            return "failed", "no CUDA device found"
        program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
        if program is None:
            return "skipped", "compute-sanitizer is not installed"
        command = [
            program, "--tool", tool, "--error-exitcode", "99", "--report-api-errors", "no",
            "--kernel-name", "kns=fastat", *PYTEST, SMALL,
        ]  # fmt: skip
        # Without the caching allocator every tensor is an allocation of its own, whose ends the tool watches.
        status, text = run(setting, command, limit, {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"})
        if "Device not supported" in text or "Unable to find injection library" in text:
            return "skipped", "compute-sanitizer refuses this device"
        if status is None and "ERROR SUMMARY" not in text:
            return "skipped", f"not finished within {limit:.0f} s"
        found = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", text)
        return ("passed" if status == 0 else "failed"), "; ".join(dict.fromkeys(found)) or why(status, text, limit)

    return part


def bench(setting: Setting, limit: float) -> tuple[str, str]:
    """The benchmark rows on this GPU."""
    if not setting.archs:
        return "failed", "no CUDA device found"
    command = [
        sys.executable, "-m", "bench", "run", "--device", "cuda", "--out", str(setting.out),
        "--limit", "200", "--total", f"{limit - WRAP_UP:.0f}",
    ]  # fmt: skip
    status, text = run(setting, command, limit)
    return ("passed", "tables above") if status == 0 else ("failed", why(status, text, limit))


PARTS: dict[str, tuple[Callable[[Setting, float], tuple[str, str]], float]] = {
    "build": (build, 150),
    "tests": (tests, 180),
    "memcheck": (sanitizer("memcheck"), 90),
    "bench": (bench, 200),
    "racecheck": (sanitizer("racecheck"), 90),
}
"""Each part with the most seconds it may take; the last gets what is left."""


def run(
    setting: Setting,
    command: list[str],
    limit: float,
    environment: dict[str, str] | None = None,
    quiet: bool = False,
    ask: bool = False,
) -> tuple[int | None, str]:
    """Runs a command in the repository, its output logged and, unless quiet, shown; status None if out of time. With
    ``ask`` it is interrupted before it is killed: pytest then tells what failed so far."""
    setting.say("$ " + " ".join(part if len(part) < 80 else "..." for part in command[1:]))
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | (environment or {}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace", process_group=0,
    )  # fmt: skip
    expired = []

    def stop(number: signal.Signals) -> None:
        expired.append(True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    timers = [Timer(limit, stop, [signal.SIGKILL])]
    if ask:
        timers.append(Timer(max(limit / 2, limit - LAST_WORDS), stop, [signal.SIGINT]))
    for timer in timers:
        timer.start()
    lines = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            setting.say(line.rstrip(), quiet)
        status = process.wait()
    finally:
        for timer in timers:
            timer.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return (None if expired else status), "".join(lines)


def why(status: int | None, text: str, limit: float) -> str:
    """Why a command failed, in a line."""
    return f"stopped after {limit:.0f} s" if status is None else f"status {status}: {last_line(text)}"


def last_line(text: str) -> str:
    """The last line with something on it."""
    return next((line.strip("= ") for line in reversed(text.splitlines()) if line.strip("= ")), "no output")


def probe() -> dict[str, object]:
    """What torch sees, asked in a process of its own: this one never touches the device."""
    asked = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, cwd=ROOT)
    if asked.returncode != 0:
        raise SystemExit(f"gpu: torch cannot be imported by {Path(sys.executable).name}: {last_line(asked.stderr)}")
    return json.loads(asked.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/runners/gpu.py", description="Builds, tests and times fastat on this GPU."
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    chosen = parser.parse_args().parts or list(PARTS)
    if unknown := [part for part in chosen if part not in PARTS]:
        parser.error(f"unknown part {unknown[0]!r}; known are {', '.join(PARTS)}")
    found = probe()
    if not found["archs"] and not os.environ.get("FASTAT_ARCHS"):
        print(f"gpu: no CUDA device found (torch {found['torch']}, CUDA {found['cuda']}); nothing was done")
        return 1
    out = Path(os.environ.get("OUT") or ROOT / "bench" / "results").resolve()
    out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the clean-up: no process is left behind
    deadline = time.monotonic() + TOTAL_SECONDS
    results: list[Result] = []
    with open(out / "gpu.log", "w") as log:
        setting = Setting(list(found["archs"]), log, out)
        setting.say(f"gpu: torch {found['torch']}, CUDA {found['cuda']}, devices: {found['devices'] or 'none'}")
        for part in chosen:
            work, most = PARTS[part]
            start = time.monotonic()
            limit = min(most, deadline - start)
            outcome, detail = work(setting, limit) if limit > 5 else ("skipped", "no time left")
            results.append(Result(part, outcome, detail, round(time.monotonic() - start, 1)))
            setting.say(f"gpu: {part} {outcome} ({detail})\n")
            summary = json.dumps({**found, "parts": [asdict(r) for r in results]}, indent=1)
            (out / "gpu.json.part").write_text(summary + "\n")
            os.replace(out / "gpu.json.part", out / "gpu.json")
        for r in results:
            setting.say(f"gpu: {r.part:10} {r.outcome:8} {r.seconds:6.1f} s  {r.detail}")
    return 1 if any(r.outcome == "failed" for r in results) else 0


if __name__ == "__main__":
    sys.exit(main())
