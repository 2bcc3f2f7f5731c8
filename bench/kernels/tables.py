"""The tables of the review: the float32 kernels, the ends of the range over all kernels, the launches of every op."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.kernels.launches import block_size, launch_of
from bench.kernels.sass import Compiled, Occupancy, occupancy
from bench.reports.layout import markdown

MULTIPROCESSORS = 132  # of an H100 SXM or H200: NVIDIA's H100 architecture paper


@dataclass(frozen=True)
class Design:
    """Bytes a float32 kernel moves between device memory and the chip, per element of its main argument."""

    pattern: str
    role: str
    moved: str
    floor: str  # every argument once, and for a sample beyond the chip the second reading that two passes need


# The first pattern that matches a kernel's name counts.
DESIGNS = (
    # Reads x_adv, x and the gradient, writes x_adv; the projection has no gradient.
    Design(r"linf_step_kernel<float, \d, true, .*", "linf step", "16", "16"),
    Design(r"linf_step_kernel<float, \d, false, .*", "linf projection", "12", "12"),
    Design(r"l2_step_in_registers<.*, true>", "l2 step, sample in registers", "16", "16"),
    Design(r"l2_step_in_registers<.*, false>", "l2 projection, sample in registers", "12", "12"),
    # Everything is read for the norms and again for the step: 12 + 12 + 4, without a gradient 8 + 8 + 4.
    Design(r"l2_step_streamed<float, .*, true, false>", "l2 step, streamed", "28", "28"),
    Design(r"l2_step_streamed<float, .*, false, false>", "l2 projection, streamed", "20", "20"),
    Design(r"l1_step_kernel<float, true, true, false>", "l1 step, sample in shared memory", "16", "16"),
    Design(r"l1_step_kernel<float, false, true, false>", "l1 projection, sample in shared memory", "12", "12"),
    # P passes read two tensors each: bisection of the gradient's 31 bits, then Newton's steps for the shift. Beside
    # them, x_adv and the gradient are read and x_adv written to step (12), x_adv and x read and x_adv written to
    # project (12); the projection alone copies x_adv onto itself (8).
    Design(r"l1_step_kernel<float, true, false, false>", "l1 step, streamed", "24 + 8 P", "28"),
    Design(r"l1_step_kernel<float, false, false, false>", "l1 projection, streamed", "20 + 8 P", "20"),
    # Reads x, writes the start. l2 and l1 make their random numbers twice and read x once.
    Design(r"linf_start_kernel<float, .*, false>", "linf start", "8", "8"),
    Design(r"ball_start_kernel<float, l2, .*, false>", "l2 start", "8", "8"),
    Design(r"ball_start_kernel<float, l1, .*, false>", "l1 start", "8", "8"),
    # Where a size or an end of the box differs from element to element (E of them): 4 more for each and reading.
    Design(r"linf_step_by_element<float, true>", "linf step by element", "16 + 4 E", "16 + 4 E"),
    Design(r"linf_step_by_element<float, false>", "linf projection by element", "12 + 4 E", "12 + 4 E"),
    Design(r"l2_step_streamed<float, .*, true, true>", "l2 step by element", "28 + 4 E", "28 + 4 E"),
    Design(r"l2_step_streamed<float, .*, false, true>", "l2 projection by element", "20 + 4 E", "20 + 4 E"),
    Design(r"l1_step_kernel<float, true, .*, true>", "l1 step by element", "16 + 4 E P", "16 + 4 E"),
    Design(r"l1_step_kernel<float, false, .*, true>", "l1 projection by element", "12 + 4 E P", "12 + 4 E"),
    Design(r".*_start_kernel<float, .*, true>", "start by element", "8 + 4 E", "8 + 4 E"),
    # Reads a row of logits (kl: and of the reference, 4 more), writes its gradient; later passes find the row in L1.
    Design(r"loss_of_small_rows<float, 8>", "attack loss, 8 lanes per row", "8", "8"),
    Design(r"loss_of_small_rows<float, 32>", "attack loss, warp per row", "8", "8"),
    Design(r"loss_of_large_rows<float, .*", "attack loss, block per row", "8", "8"),
    # Each pass reads the losses, from L1 where they fit; the weights are written once (4, not counted in a pass).
    Design(r"holistic_warp<float>", "HR weights, one warp", "4 per pass", "4 per pass"),
    Design(r"holistic_block<float, .*", "HR weights, one block", "4 per pass", "4 per pass"),
    # Reads the products once from memory; labels are 4 bytes per column, for all rows the same.
    Design(r"contrast_of_small_rows<float>", "BAT rows, warp per row", "4", "4"),
    Design(r"contrast_of_large_rows<float>", "BAT rows, block per row", "4", "4"),
    Design(r"contrast_gradient_elements<float, .*", "BAT gradient", "8", "8"),
    Design(r"scale_elements<float>", "scale rows", "8", "8"),
    # Of a sample that changes; 0 of the others.
    Design(r"best_kernel<float, .*", "better of two iterates", "8", "8"),
)

SAMPLES = ({"batch": 1, "n": 64}, {"batch": 128, "n": 3072}, {"batch": 325_521, "n": 3072})
IMAGES = ({"batch": 1, "n": 150_528}, {"batch": 6_644, "n": 150_528})  # 3x224x224
LOGITS = ({"rows": 1, "classes": 10}, {"rows": 128, "classes": 10}, {"rows": 1_000_000, "classes": 1000})
PRODUCTS = ({"rows": 2, "n": 2}, {"rows": 128, "n": 128}, {"rows": 31_623, "n": 31_623})
INPUTS: dict[str, Sequence[dict[str, int]]] = {
    "linf step": SAMPLES,
    "l2 step": (*SAMPLES, *IMAGES),
    "l1 step": (*SAMPLES, *IMAGES),
    "linf start": SAMPLES,
    "l2 start": (*SAMPLES, *IMAGES),
    "attack loss": LOGITS,
    "HR weights": ({"n": 1}, {"n": 128}, {"n": 1_000_000_000}),
    "BAT rows": PRODUCTS,
    "BAT gradient": PRODUCTS,
    "scale rows": ({"count": 1, "length": 10}, {"count": 128, "length": 10}, {"count": 1_000_000, "length": 1000}),
    "best": tuple({"batch": s["batch"], "sample_bytes": 4 * s["n"]} for s in (*SAMPLES, *IMAGES)),
}


def design_of(name: str) -> Design:
    """The entry of the table for a float32 kernel."""
    for design in DESIGNS:
        if re.fullmatch(design.pattern, name):
            return design
    raise SystemExit(f"{name} has no entry in bench/kernels/tables.py")


def is_float32(name: str) -> bool:
    """Whether a kernel works on float32 alone: it says so, or it is the l2 step that exists for no other type."""
    return "<float" in name or name.startswith("l2_step_in_registers<")


def resident(kernel: Compiled, dynamic: int = 0) -> Occupancy:
    """How many of its blocks a multiprocessor holds, each with that much dynamic shared memory."""
    return occupancy(block_size(kernel.name), kernel.registers, kernel.shared + dynamic)


def _accesses(counts: dict[int, int]) -> str:
    return " + ".join(f"{counts[size]} x {size}" for size in sorted(counts, reverse=True)) or "-"


def _room(found: Occupancy) -> str:
    return f"{found.share:.0%}, {found.limit}" if found.share < 1 else "100%"


def kernels_table(kernels: Sequence[Compiled]) -> str:
    """The float32 kernels, one row for each kernel and branch."""
    lines = [["kernel", "role", "bytes / floor", "block", "registers", "shared", "occupancy", "loads", "stores"]]
    lines[0] += ["stack", "spill stores, loads", "barriers", "doubles"]
    for kernel in sorted((k for k in kernels if is_float32(k.name)), key=lambda k: _place(k.name)):
        design = design_of(kernel.name)
        shared = str(kernel.shared)
        dynamic = 12 * 3072 if "shared memory" in design.role else 0
        line = [f"`{kernel.name}`", design.role, f"{design.moved} / {design.floor}", str(block_size(kernel.name))]
        line += [str(kernel.registers), f"{shared} + 12 n" if dynamic else shared, _room(resident(kernel, dynamic))]
        line += [_accesses(kernel.loads), _accesses(kernel.stores), str(kernel.stack)]
        spills = f"{kernel.spill_stores}, {kernel.spill_loads}"
        lines.append([*line, spills, str(kernel.barriers), str(kernel.doubles)])
    return markdown(lines)


def _place(name: str) -> tuple[int, str]:
    return DESIGNS.index(design_of(name)), name


def extremes_table(kernels: Sequence[Compiled]) -> str:
    """The ends of the range over all element types."""

    def named(found: Sequence[Compiled]) -> str:
        return ", ".join(f"`{k.name}`" for k in found) or "none"

    def extreme(title: str, numbers: Sequence[float], show: str = "{:.0f}", most: bool = True) -> list[str]:
        end = max(numbers) if most else min(numbers)
        return [title, show.format(end), named([k for k, n in zip(kernels, numbers, strict=True) if n == end])]

    spilling = [k for k in kernels if k.spill_stores or k.spill_loads]
    lines = [["of all kernels", "number", "which"], ["kernels", str(len(kernels)), "all element types"]]
    lines.append(extreme("most registers of a thread", [k.registers for k in kernels]))
    lines.append(["kernels with spills", str(len(spilling)), named(spilling)])
    lines.append(
        ["kernels with a stack", str(sum(k.stack > 0 for k in kernels)), named([k for k in kernels if k.stack])]
    )
    lines.append(extreme("most bytes of stack", [k.stack for k in kernels]))
    lines.append(extreme("most bytes of static shared memory", [k.shared for k in kernels]))
    lines.append(extreme("lowest occupancy", [resident(k).share for k in kernels], "{:.0%}", most=False))
    atomic, double = [k for k in kernels if k.atomics], [k for k in kernels if is_float32(k.name) and k.doubles]
    lines.append(["kernels with atomics", str(len(atomic)), named(atomic)])
    names = dict.fromkeys(k.name.partition("<")[0] for k in double)
    lines.append(["float32 kernels with double precision", str(len(double)), ", ".join(f"`{n}`" for n in names)])
    return markdown(lines)


def launches_table(kernels: Sequence[Compiled]) -> str:
    """Grid and block of every op for a small, a usual and a huge input."""
    by_name = {kernel.name: kernel for kernel in kernels}
    lines = [["op", "input", "kernel", "grid x block", "dynamic shared", "blocks an SM holds", "SMs at work", "waves"]]
    storage = by_name["l1_step_kernel<float, true, true, false>"].shared
    for op, inputs in INPUTS.items():
        for sizes in inputs:
            launch = launch_of(op, sizes, storage)
            blocks = resident(by_name[launch.kernel], launch.shared).blocks
            line = [op, ", ".join(f"{name} {size:,}" for name, size in sizes.items()), f"`{launch.kernel}`"]
            line += [f"{launch.grid:,} x {launch.block}", f"{launch.shared:,}", str(blocks)]
            waves = launch.grid / (blocks * MULTIPROCESSORS)
            lines.append([*line, f"{min(launch.grid, MULTIPROCESSORS)}", "< 1" if waves < 1 else f"{waves:,.1f}"])
    return markdown(lines)
