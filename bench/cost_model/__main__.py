"""What the time of an attack is made of: ``make cost-model``, or ``python -m bench.cost_model``.

For each network and precision: operations and bytes of a PGD step on paper, the machine's ceilings measured in the same
run, the least time that follows from them, and what was measured: the model alone, our part of a step (loss and step,
on inputs that are not in the cache), the whole attack, on CUDA replayed from a graph, and its share of time per kind of
operator, on CUDA also per kernel. And how the time of the attack grows with batch, steps, image size and number of
classes. Writes cost-model-<device>.json after every part, a table and figures beside it.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.contests import machine
from bench.cost_model.measure import measured, parts, sweeps, swept
from bench.cost_model.report import figures, markdown_of
from bench.reports.files import commit, date, file_name, results_folder, write
from bench.runners.suites import KEEP_MEMORY
from bench.suites.networks import NETWORKS


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, and writes what there is after every part."""
    parser = argparse.ArgumentParser(prog="python -m bench.cost_model", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is a GPU")
    parser.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), default=tuple(NETWORKS), metavar="NETWORK")
    parser.add_argument("--out", type=Path, help="folder (default: $OUT, else bench/results)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    out = options.out or results_folder()
    environment = machine.environment(device)
    found: dict[str, Any] = {"environment": environment, "commit": commit(), "ceilings": machine.ceilings(device)}
    found |= {"date": date(), "parts": [], "sweeps": []}
    stem = f"cost-model-{file_name(environment)}"

    def keep() -> None:
        write(out / f"{stem}.json", json.dumps(found, indent=1) + "\n")
        write(out / f"{stem}.md", markdown_of(found))

    for part in parts(device):
        if part.network in options.networks:
            found["parts"].append(measured(part, found["ceilings"]["copy_bytes_per_s"], device))
            keep()
            print(f"cost model: {part.network} {part.precision} done", flush=True)
    for sweep in sweeps(device):
        if sweep.network in options.networks:
            for name, values in sweep.values.items():
                found["sweeps"].append(swept(sweep, name, values, device))
                keep()
            print(f"cost model: scaling of {sweep.network} {sweep.precision} done", flush=True)
    print(markdown_of(found))
    print("\n".join(str(path) for path in figures(found, out, stem)))


if __name__ == "__main__":
    if not os.environ.items() >= KEEP_MEMORY.items():  # as for the suites; malloc reads it when a process starts
        command = [sys.executable, "-m", "bench.cost_model", *sys.argv[1:]]
        os.execve(sys.executable, command, {**os.environ, **KEEP_MEMORY})
    main()
