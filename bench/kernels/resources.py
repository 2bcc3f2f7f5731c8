"""What the CUDA compiler says of each kernel: ``python -m bench.kernels.resources BUILD_LOG``.

Reads the output of ``ptxas -v`` in a build log and prints, per architecture, how many kernels there are, the most
registers any uses, and every kernel that spills to memory.
"""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

ENTRY = re.compile(
    r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<arch>\w+)'.*?"
    r"(?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers",
    re.DOTALL,
)


def demangled(names: list[str]) -> list[str]:
    """C++ names as written, if the binutils are there."""
    try:
        text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return names
    plain = text.replace("(anonymous namespace)::", "").replace("fastat::", "").replace("void ", "")
    return [line.rsplit(">(", 1)[0] + ">" for line in plain.splitlines()]


def main(log: str) -> None:
    """Prints the summary of one build log."""
    kernels = defaultdict(list)
    for entry in ENTRY.finditer(Path(log).read_text()):
        kernels[entry["arch"]].append((entry["name"], *(int(entry[k]) for k in ("registers", "stores", "loads"))))
    if not kernels:
        raise SystemExit(f"{log} holds no report of ptxas -v")
    for arch, found in sorted(kernels.items()):
        spilling = [k for k in found if k[2] or k[3]]
        print(f"sm_{arch}: {len(found)} kernels, at most {max(k[1] for k in found)} registers, {len(spilling)} spill")
        for name, (_, registers, stores, loads) in zip(demangled([k[0] for k in spilling]), spilling, strict=True):
            print(f"  {name}: {registers} registers, {stores} bytes stored, {loads} bytes loaded")


if __name__ == "__main__":
    main(*sys.argv[1:])
