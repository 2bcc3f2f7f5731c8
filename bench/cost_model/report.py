"""The cost model as a table and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bench.cost_model.counts import GROUPS
from bench.reports.layout import markdown, time_of
from bench.reports.ticks import plain_log_ticks, ticks_at
from fastat.report import BLUE, DPI, GREEN, GREY, ORANGE, RED, label_axes

Found = dict[str, Any]
_PALE = "#BBBBBB"
_COLORS = dict(zip(GROUPS, (BLUE, "#56B4E9", GREEN, ORANGE, RED, _PALE), strict=True))
_BARS = (
    ("least_seconds", "least, by operations and bytes", _PALE),
    ("model_seconds", "model alone", BLUE),
    ("step_seconds", "PGD step of fastat", ORANGE),
)


def markdown_of(found: Found) -> str:
    """Everything that was measured, with what the columns mean."""
    e, copy = found["environment"], found["ceilings"]["copy_bytes_per_s"]
    threads = f", {e['threads']} threads" if e["kind"] == "cpu" else ""
    blocks = [
        "# Cost of an attack",
        f"**{e['device']}** (torch {e['torch']}{threads}; commit {found['commit']}, {found['date']}). "
        f"Copy: {copy / 1e9:.4g} GB/s (bytes read plus written).",
        "One step of linf PGD. Operations: of the forward pass and of the gradient to the input. Bytes: weights and "
        "outputs of convolutions and linear layers once each way. Least: the longer of operations at the speed of a "
        "large matrix product in that precision and bytes at the speed of a copy (an algorithm that needs fewer "
        "operations, as Winograd's, can be below it). Own part: loss and step without the model, on inputs that are "
        "not in the cache." + (" The whole step is replayed from a CUDA graph." if e["kind"] == "cuda" else ""),
    ]
    lines = [["network", "images", "precision", "GFLOP forward", "GFLOP gradient", "MB", "product TFLOP/s", "least"]]
    lines[0] += ["bound by", "forward", "model alone", "whole step", "own part", "own share", "least / model alone"]
    for part in found["parts"]:
        least, bound = least_of(part)
        lines.append([
            part["network"], f"{part['batch']}x3x{part['size']}x{part['size']}", part["precision"],
            f"{part['forward_flop'] / 1e9:.4g}", f"{part['gradient_flop'] / 1e9:.4g}", f"{part['bytes'] / 1e6:.4g}",
            f"{part['product_flop_per_s'] / 1e12:.3g}", time_of(least), bound, time_of(part["forward_seconds"]),
            time_of(part["model_seconds"]), time_of(part["step_seconds"]), time_of(part["own_seconds"]),
            f"{part['own_seconds'] / part['step_seconds']:.1%}", f"{least / part['model_seconds']:.0%}",
        ])  # fmt: skip
    blocks.append(markdown(lines))
    blocks += ["Share of the operators' own time in PGD-10, by torch.profiler:", _shares(found["parts"])]
    if any(part["kernels"] for part in found["parts"]):
        blocks += ["Share of the device's time in PGD-10 by kernel, the largest:", _kernels(found["parts"])]
    if found["sweeps"]:
        blocks.append(
            "Time of PGD-10 as a power of one thing, the others fixed (standard error of a straight line through the "
            "logarithms; a power below one is a fixed cost that counts at the small end):"
        )
        blocks.append(_powers(found["sweeps"]))
    return "\n\n".join(blocks) + "\n"


def least_of(part: Found) -> tuple[float, str]:
    """The least time of a step, and what sets it."""
    return max((part["flop_seconds"], "operations"), (part["byte_seconds"], "bytes"))


def figures(found: Found, folder: Path, stem: str) -> list[Path]:
    """Draws the times, the shares and the scaling; returns the pictures."""
    device = found["environment"]["device"]
    written = [folder / f"{stem}-times.png", folder / f"{stem}-shares.png"]
    _draw_times(written[0], found["parts"], device)
    _draw_shares(written[1], found["parts"], device)
    if found["sweeps"]:
        written.append(folder / f"{stem}-scaling.png")
        _draw_scaling(written[2], found["sweeps"], device)
    return written


def _shares(parts: Sequence[Found]) -> str:
    lines = [["network", "precision", *GROUPS]]
    lines += [[p["network"], p["precision"], *(f"{p['shares'][group]:.1%}" for group in GROUPS)] for p in parts]
    return markdown(lines)


def _kernels(parts: Sequence[Found]) -> str:
    lines = [["network", "precision", "kernel", "share"]]
    for part in parts:
        for kernel, share in part["kernels"].items():
            lines.append([part["network"], part["precision"], kernel.replace("|", "/"), f"{share:.1%}"])
    return markdown(lines)


def _powers(sweeps: Sequence[Found]) -> str:
    lines = [["network", "precision", "varied", "from", "to", "power", "times"]]
    for sweep in sweeps:
        times = ", ".join(f"{value}: {time_of(s)}" for value, s in zip(sweep["values"], sweep["seconds"], strict=True))
        power = f"{sweep['power']:.2f} +- {sweep['power_error']:.2f}"
        ends = [str(sweep["values"][0]), str(sweep["values"][-1])]
        lines.append([sweep["network"], sweep["precision"], sweep["varied"], *ends, power, times])
    return markdown(lines)


def _label(part: Found) -> str:
    return f"{part['network']}\n{part['batch']} images, {part['precision']}"


def _draw_times(path: Path, parts: Sequence[Found], device: str) -> None:
    figure = Figure(figsize=(11, 1.6 + 0.75 * len(parts)), layout="constrained")
    axes = figure.subplots()
    for i, (key, label, color) in enumerate(_BARS):
        seconds = [least_of(part)[0] if key == "least_seconds" else part[key] for part in parts]
        ratios = [s / part["model_seconds"] for s, part in zip(seconds, parts, strict=True)]
        bars = axes.barh([row + 0.27 * (i - 1) for row in range(len(parts))], ratios, 0.25, color=color, label=label)
        axes.bar_label(bars, [time_of(s) for s in seconds], padding=4, fontsize=11)
    axes.set_yticks(range(len(parts)), [_label(part) for part in parts])
    axes.invert_yaxis()
    axes.set_xlim(0, axes.get_xlim()[1] * 1.08)
    axes.set_axisbelow(True)
    label_axes(axes, "time of a step / time of the model alone", "")
    axes.set_title(f"A PGD step between arithmetic and the clock, {device}", fontsize=13, pad=34)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=11, frameon=False)
    figure.savefig(path, dpi=DPI)


def _draw_shares(path: Path, parts: Sequence[Found], device: str) -> None:
    figure = Figure(figsize=(11, 1.8 + 0.6 * len(parts)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(parts)
    for group in GROUPS:
        values = [part["shares"][group] for part in parts]
        bars = axes.barh(range(len(parts)), values, 0.65, left=left, color=_COLORS[group], label=group)
        ink = "white" if group == "convolution" else "black"
        shown = [f"{v:.0%}" if v >= 0.05 else "" for v in values]
        axes.bar_label(bars, shown, label_type="center", fontsize=11, color=ink)
        left = [a + b for a, b in zip(left, values, strict=True)]
    axes.set_yticks(range(len(parts)), [_label(part) for part in parts])
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    label_axes(axes, "share of the time in PGD-10", "")
    axes.set_title(f"What fastat's attack spends its time on, {device}", fontsize=13, pad=34)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(GROUPS), fontsize=11, frameon=False)
    figure.savefig(path, dpi=DPI)


def _draw_scaling(path: Path, sweeps: Sequence[Found], device: str) -> None:
    figure = Figure(figsize=(12, 8.6), layout="constrained")
    figure.suptitle(f"How the time of PGD-10 grows, {device}", fontsize=14)
    varied = list(dict.fromkeys(sweep["varied"] for sweep in sweeps))
    for axes, name in zip(figure.subplots(2, 2).flat, varied, strict=True):
        here = [sweep for sweep in sweeps if sweep["varied"] == name]
        for sweep, color, marker in zip(here, (BLUE, RED, GREEN, GREY), "osDv", strict=False):
            power = f"power {sweep['power']:.2f} $\\pm$ {sweep['power_error']:.2f}"
            label = f"{sweep['network']} {sweep['precision']}: {power}"
            milliseconds = [1e3 * s for s in sweep["seconds"]]
            axes.plot(sweep["values"], milliseconds, color=color, marker=marker, linewidth=2, label=label)
        axes.set_xscale("log")
        plain_log_ticks(axes)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high * (high / low) ** 0.35)  # room for the legend
        ticks_at(axes, sorted({value for sweep in here for value in sweep["values"]}))
        label_axes(axes, {"image size": "image size (pixels a side)"}.get(name, name), "time (ms)")
        axes.legend(loc="upper left", fontsize=11, frameon=False)
    figure.savefig(path, dpi=DPI)
