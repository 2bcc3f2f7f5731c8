"""``python -m bench`` runs the suites and prints one table of ratios.

``python -m bench run``            the same, with options: --device, --out, --only, --limit, --total
``python -m bench table FILES``    puts the tables of these files into README.md, between its markers
``python -m bench figure FILE``    time against batch size, of the attacks that this file holds
``python -m bench compare``        the suites again, beside the results that are committed; --new takes a file instead

A run writes ``cpu.json`` or ``gpu-<device>.json``, of some suites ``cpu-<suites>.json``, and the table beside it as
``.md``, after every case: what a run that is cut off has measured is kept. The exit status tells whether every suite
passed its checks, never how fast anything was.

Commands of their own: ``python -m bench.cost_model``, what the time of an attack is made of; ``python -m
bench.rates.training``, images per second of training, with a GPU in mind; ``python -m bench.rates.theory``, a curve of
theory; ``python -m bench.kernels``, the compiled CUDA kernels; ``bench/runners/gpu.py``, all that needs a GPU.
"""

import argparse
import math
import sys
from pathlib import Path

from bench.reports import changes
from bench.reports import speed_tables as report
from bench.reports.batch_figure import draw_batches
from bench.reports.files import RESULTS, ROOT, load, write
from bench.reports.layout import fill
from bench.runners.suites import SUITES, run_suites

LIMIT = 900.0


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments or ["run"])
    if options.command == "table":
        return write_table(options.files, ROOT / "README.md")
    if options.command == "figure":
        return draw(options.file, options.out)
    if options.command == "compare":
        return compare(options.new, options.old, options.limit, options.fail)
    written = run_suites(options.device, options.out, options.only, options.limit, options.total)
    return 0 if written and not load(written)["failed"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command")
    run = commands.add_parser("run", help="run the suites (the default)")
    run.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is a GPU")
    run.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON and the table")
    run.add_argument("--only", nargs="+", choices=SUITES, default=SUITES, metavar="SUITE", help=", ".join(SUITES))
    run.add_argument("--limit", type=float, default=LIMIT, help=f"seconds a suite may take (default {LIMIT:.0f})")
    run.add_argument("--total", type=float, default=math.inf, help="seconds all of them may take (default: no limit)")
    table = commands.add_parser("table", help="put the tables of these files into README.md")
    table.add_argument("files", nargs="+", type=Path)
    figure = commands.add_parser("figure", help="draw time against batch size")
    figure.add_argument("file", type=Path, help="JSON of a run with the suite pgd")
    figure.add_argument("--out", type=Path, help="folder of the pictures (default: that of the file)")
    compared = commands.add_parser("compare", help="compare with the committed results")
    compared.add_argument("--new", type=Path, help="JSON of a run; without it, the suites run now")
    compared.add_argument("--old", nargs="+", type=Path, help="JSON to compare with (default: the committed ones)")
    compared.add_argument("--limit", type=float, default=LIMIT, help=f"seconds a suite may take (default {LIMIT:.0f})")
    compared.add_argument("--fail", action="store_true", help="exit 1 if anything got slower")
    return parser


def write_table(files: list[Path], readme: Path) -> int:
    """Regenerates the speed table of the README."""
    text = "\n".join(report.tables(load(path)) for path in sorted(files))
    write(readme, fill(readme.read_text(), {"speed": text}))
    return 0


def draw(file: Path, out: Path | None) -> int:
    """The figures of time against batch size."""
    written = draw_batches(load(file), out or file.parent, file.stem)
    print("\n".join(map(str, written)) or f"{file.name} holds no network at three batch sizes or more")
    return 0 if written else 1


def compare(new: Path | None, old: list[Path] | None, limit: float, fail: bool) -> int:
    """Prints what changed. Exit status 0 whatever that is, unless ``fail`` is set."""
    new = new or run_suites(None, ROOT / "build" / "bench-compare", SUITES, limit, math.inf)
    if new is None:
        return 1
    run = load(new)
    earlier = [load(path) for path in old or sorted(RESULTS.glob("*.json"))]
    found = changes.changes(earlier, run)
    print(changes.table(found, run))
    return 1 if fail and any(change.verdict == changes.SLOWER for change in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
