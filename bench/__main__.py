"""``python -m bench`` runs the suites and prints one table of ratios.

``python -m bench run``    the same, with options: --device, --out, --only, --limit
``python -m bench table FILES``
                           puts the tables of these files into README.md, between its markers

A run writes ``cpu.json`` or ``gpu-<device>.json``, of some suites ``cpu-<suites>.json``, and the table beside it as
``.md``, after every suite: what a run that is cut off has measured is kept. The exit status tells whether every suite
passed its checks, never how fast anything was.
"""

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import report

ROOT = Path(__file__).parents[1]
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
"""For glibc: keep freed memory. Otherwise the temporaries of eager code cost page faults or not, up to a factor of
seven, by the luck of the heap's layout; this is the luckier case for the rivals."""
SUITES = ("linf_step", "l2_l1_step", "random_start", "attack_loss", "holistic", "objectives", "early_stop", "pgd")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks, as ratios.")
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser("run", help="run the suites (the default)")
    run.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is a GPU")
    run.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder for the JSON and the table")
    run.add_argument("--only", nargs="+", choices=SUITES, default=SUITES, metavar="SUITE", help=", ".join(SUITES))
    run.add_argument("--limit", type=float, default=240.0, help="seconds a suite may take (default 240)")
    table = commands.add_parser("table", help="put the tables of these files into README.md")
    table.add_argument("files", nargs="+", type=Path)
    options = parser.parse_args(arguments or ["run"])
    if options.command == "table":
        return write_table(options.files, ROOT / "README.md")
    return run_suites(options.device, options.out, options.only, options.limit)


def run_suites(device: str | None, out: Path, suites: tuple[str, ...], limit: float) -> int:
    """Each suite in a process of its own, so that one that breaks its device leaves the others theirs."""
    import torch

    from bench import peers, timing

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print("bench: no CUDA device found", file=sys.stderr)
        return 1
    environment = timing.environment(torch.device(device)) | {"peers": peers.versions(), "variables": variables()}
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    run: dict[str, Any] = {"environment": environment, "commit": commit(), "date": date}
    run |= {"ceilings": {}, "cases": [], "failed": {}}
    words = re.findall(r"[a-z0-9]+", str(environment["device"]).lower())
    name = "cpu" if device == "cpu" else "-".join(["gpu", *words])
    if tuple(suites) != SUITES:  # some of them do not overwrite what all of them wrote
        name = "-".join([name, *suites])
    for suite in suites:
        start = time.perf_counter()
        raw, failure = run_suite(suite, device, limit)
        if raw is not None:
            run["ceilings"][suite] = raw["ceilings"]
            run["cases"] += report.cases_of(raw)
        if failure:
            run["failed"][suite] = failure.splitlines()[0]
            print(failure, file=sys.stderr)
        report.write(out / f"{name}.json", json.dumps(run, indent=1) + "\n")
        report.write(out / f"{name}.md", report.tables(run))
        print(f"bench: {suite} {'FAILED' if failure else 'done'} in {time.perf_counter() - start:.0f} s", flush=True)
    print("\n" + report.tables(run))
    return 1 if run["failed"] else 0


def run_suite(suite: str, device: str, limit: float) -> tuple[dict[str, Any] | None, str]:
    """What pytest-benchmark wrote, and why the suite failed ("" if it did not)."""
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "benchmark.json"
        command = [
            sys.executable, "-m", "pytest", f"bench/bench_{suite}.py", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
            f"--bench-device={device}", f"--benchmark-json={written}", "--benchmark-columns=median,iqr,rounds",
        ]  # fmt: skip
        output, status = limited(command, limit)
        raw = json.loads(written.read_text()) if written.exists() and written.stat().st_size else None
    if status == 0:
        return raw, ""
    reason = f"stopped after {limit:.0f} s" if status is None else f"pytest ended with status {status}"
    return raw, "\n".join([reason, *output.splitlines()[-60:]])


def limited(command: list[str], limit: float) -> tuple[str, int | None]:
    """Output and exit status; None for one that ran out of time and was told to wrap up."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | KEEP_MEMORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        return process.communicate(timeout=limit)[0], process.returncode
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest still writes what it has
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


def commit() -> str:
    """The commit of the working tree, with a plus if files differ from it; "unknown" outside a repository."""
    try:
        command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return found.stdout.strip() or "unknown"


def write_table(files: list[Path], readme: Path) -> int:
    """Regenerates the speed table of the README."""
    text = "\n".join(report.tables(report.load(path)) for path in sorted(files))
    if report.into_readme(readme, text):
        return 0
    print(text)
    print(f"{readme.name} has no lines {report.BEGIN} and {report.END}: nothing was written", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
