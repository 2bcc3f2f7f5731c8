"""What a built CUDA module holds, as ``cuobjdump`` shows it, and how many of its warps a multiprocessor can hold.

Registers, stack and shared memory come from ``cuobjdump -res-usage``; the widths of loads and stores, spills, atomics,
barriers and arithmetic in double precision are counted in the machine code, ``cuobjdump -sass``. The counts are of
instructions in the code, not of instructions that ran.
"""

import os
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench.kernels.resources import demangled

USAGE = re.compile(r"Function (?P<name>\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+)")
FUNCTION = re.compile(r"\s*Function : (\w+)")
INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)((?:\.\w+)*)")
BYTES = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled for one architecture; `loads` and `stores` count global accesses by bytes per thread."""

    name: str
    registers: int
    stack: int
    shared: int
    loads: Counter[int]
    stores: Counter[int]
    spill_stores: int
    spill_loads: int
    atomics: int
    barriers: int
    doubles: int


@dataclass(frozen=True)
class Occupancy:
    """Blocks and warps that are resident on one multiprocessor, and what allows no more."""

    blocks: int
    warps: int
    share: float
    limit: str


# Compute capability 9.0. Warps, blocks, registers and shared memory of a multiprocessor, and the shared memory that the
# system reserves per block: the table of technical specifications per compute capability in NVIDIA's CUDA Programming
# Guide. Units of allocation, and that registers are split among four partitions: the toolkit's cuda_occupancy.h.
WARPS, BLOCKS, REGISTERS, SHARED = 64, 32, 65536, 228 * 1024
MOST_SHARED_OF_A_BLOCK = 227 * 1024
RESERVED_SHARED, SHARED_UNIT = 1024, 128
REGISTER_UNIT, PARTITIONS = 256, 4


def rounded_up(number: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-number // unit) * unit


def occupancy(threads: int, registers: int, shared: int = 0) -> Occupancy:
    """Of blocks of `threads` threads with `registers` each and `shared` bytes per block, at compute capability 9.0."""
    warps = rounded_up(threads, 32) // 32
    by_registers = REGISTERS // PARTITIONS // rounded_up(max(registers, 1) * 32, REGISTER_UNIT) * PARTITIONS
    limits = {
        "warps": WARPS // warps,
        "blocks": BLOCKS,
        "registers": by_registers // warps,
        "shared memory": SHARED // rounded_up(shared + RESERVED_SHARED, SHARED_UNIT),
    }
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit]
    return Occupancy(blocks, blocks * warps, blocks * warps / WARPS, limit)


def usage(text: str) -> dict[str, tuple[int, int, int]]:
    """Registers, bytes of stack and bytes of static shared memory per mangled name, from ``-res-usage``."""
    return {
        found["name"]: (int(found["registers"]), int(found["stack"]), int(found["shared"]))
        for found in USAGE.finditer(text)
    }


def instructions(lines: Iterable[str]) -> dict[str, Counter[tuple[str, int]]]:
    """How often each instruction occurs per mangled name, from ``-sass``: by name and bytes per thread (unsaid: 4)."""
    counts: dict[str, Counter[tuple[str, int]]] = defaultdict(Counter)
    name = None
    for line in lines:
        if found := FUNCTION.match(line):
            name = found[1]
        elif name and (found := INSTRUCTION.match(line)):
            sizes = [BYTES[part] for part in found[2].split(".") if part in BYTES]
            counts[name][found[1], sizes[0] if sizes else 4] += 1
    return counts


def compiled(name: str, resources: tuple[int, int, int], code: Counter[tuple[str, int]]) -> Compiled:
    """Puts together what both reports say of one kernel."""

    def by_size(wanted: str) -> Counter[int]:
        return Counter({size: count for (what, size), count in code.items() if what == wanted})

    def total(pattern: str) -> int:
        return sum(count for (what, _), count in code.items() if re.fullmatch(pattern, what))

    return Compiled(
        name,
        *resources,
        loads=by_size("LDG"),
        stores=by_size("STG"),
        spill_stores=total("STL"),
        spill_loads=total("LDL"),
        atomics=total("ATOM|ATOMG|ATOMS|RED|REDG|REDS"),
        barriers=total("BAR"),
        doubles=total("D(ADD|MUL|FMA|SETP|MNMX)"),
    )


def find_cuobjdump() -> str:
    """The toolkit's, or the one that triton brings."""
    found = shutil.which("cuobjdump")
    homes = [Path(os.environ[key]) / "bin" for key in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(key)]
    spec = find_spec("triton")
    if spec and spec.origin:
        homes.append(Path(spec.origin).parent / "backends/nvidia/bin")
    for home in [*homes, Path("/usr/local/cuda/bin")]:
        if found is None and (home / "cuobjdump").exists():
            found = str(home / "cuobjdump")
    if found is None:
        raise SystemExit("cuobjdump was not found: neither on the path, nor in CUDA_HOME, nor beside triton")
    return found


def read_kernels(library: Path, arch: str) -> list[Compiled]:
    """Every kernel of a built library for one architecture ("sm_90"), by name."""
    tool = find_cuobjdump()
    command = [tool, "-arch", arch, "-res-usage", str(library)]
    resources = usage(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    if not resources:
        raise SystemExit(f"{library} holds no code for {arch}")
    code = instructions(output_lines([tool, "-arch", arch, "-sass", str(library)]))
    if set(code) != set(resources):
        raise SystemExit(f"the two reports of cuobjdump name different kernels: {set(code) ^ set(resources)}")
    names = [plain_name(name) for name in demangled(list(resources))]
    found = [compiled(name, resources[key], code[key]) for name, key in zip(names, resources, strict=True)]
    return sorted(found, key=lambda kernel: kernel.name)


def output_lines(command: list[str]) -> Iterator[str]:
    """A command's output, line by line: machine code runs to tens of megabytes."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")


def plain_name(name: str) -> str:
    """Without namespaces of ours, and with norms as they are written in the source."""
    for shown, written in {"generic::": "", "(Norm)0": "linf", "(Norm)1": "l2", "(Norm)2": "l1"}.items():
        name = name.replace(shown, written)
    return name
