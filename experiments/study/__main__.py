"""``python -m experiments.study``: trains what is missing, measures, writes study.json, study.md and the figures.

About three quarters of an hour on two idle cores: 85 minutes of processor time. Interrupt it at any moment: the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from experiments.study.cells import DATASETS, cells_of
from experiments.study.figures import draw
from experiments.study.runs import check_measurements, jobs_of, run_all
from experiments.study.summary import as_json, read
from experiments.study.text import write_text
from fastat.support.files import write_bytes

ROOT = Path(__file__).parents[2]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.study", description="What HR and BAT training do, measured."
    )
    parser.add_argument("--data", nargs="+", choices=DATASETS, default=DATASETS, help="default: all of them")
    parser.add_argument("--data-root", help="folder with the datasets (default: the environment variable FASTAT_DATA)")
    parser.add_argument("--runs", type=Path, help="where runs are kept (default: runs/study, or runs/study-quick)")
    parser.add_argument(
        "--out", type=Path, help="where results go (default: experiments/results/study, or --runs with --quick)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        choices=range(1, 65),
        metavar="N",
        default=os.cpu_count(),
        help="runs at a time (default: one per core)",
    )
    parser.add_argument("--quick", action="store_true", help="minutes: a trial of the machinery, not a measurement")
    options = parser.parse_args(arguments)
    root = options.runs or ROOT / "runs" / ("study-quick" if options.quick else "study")
    out = options.out or (root if options.quick else ROOT / "experiments" / "results" / "study")
    jobs = {name: jobs_of(cells_of(name, options.quick), root, options.quick) for name in DATASETS}
    try:
        check_measurements(root, options.quick)
        problems = run_all([job for name in options.data for job in jobs[name]], options.data_root, options.processes)
        outcomes = read(job for name in DATASETS for job in jobs[name])  # also what an earlier command has trained
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from where it was", file=sys.stderr)
        return 130
    out.mkdir(parents=True, exist_ok=True)
    rows = ",\n".join(json.dumps(row) for row in as_json(outcomes))  # a run per line
    write_bytes(out / "study.json", f'{{"problems": {json.dumps(problems)}, "runs": [\n{rows}\n]}}\n'.encode())
    pictures = draw(outcomes, out)
    write_text(outcomes, problems, options.quick, out / "study.md", pictures)
    print("\n".join([*problems, *map(str, [out / "study.json", out / "study.md", *pictures])]))
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
