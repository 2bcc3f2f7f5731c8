"""The review of the CUDA kernels: ``python -m bench.kernels [LIBRARY]`` rewrites the tables of kernels.md.

Reads a built module (default: the one in place) and the sources, runs nothing and needs no GPU. Registers, shared
memory, spills and the widths of loads are what the compiler made; occupancy is computed from them; bytes per element
are what the kernels move by design. None of it is a measurement of time.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from bench.kernels.sass import read_kernels
from bench.kernels.tables import extremes_table, kernels_table, launches_table
from bench.reports.files import ROOT, write
from bench.reports.layout import fill

PAGE = Path(__file__).with_name("kernels.md")


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the library and rewrites the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("library", nargs="?", type=Path, help="a built fastat.kernels._cuda; default: the one in place")
    chosen = parser.parse_args(arguments)
    libraries = [chosen.library] if chosen.library else sorted((ROOT / "fastat/kernels").glob("_cuda*.so"))
    if len(libraries) != 1 or not libraries[0].exists():
        raise SystemExit("no CUDA module is built: FASTAT_CUDA=1 FASTAT_ARCHS=9.0 python setup.py build_ext --inplace")
    kernels = read_kernels(libraries[0], "sm_90")
    tables = {
        "kernels": kernels_table(kernels),
        "extremes": extremes_table(kernels),
        "launches": launches_table(kernels),
    }
    write(PAGE, fill(PAGE.read_text(), tables))
    print(f"{PAGE.relative_to(ROOT)}: {len(kernels)} kernels, {sum(k.spill_stores > 0 for k in kernels)} spill")


if __name__ == "__main__":
    main()
