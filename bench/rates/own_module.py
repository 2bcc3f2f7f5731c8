"""What ``fastat.train`` adds to a step: one's own module in it, and in the loop that one would write with a protocol.

``python -m bench.rates.own_module``: the same networks and samples, PGD-10, SGD, no validation. Both ways take turns in
rounds; the ratio is the median of those of the rounds, of which each has the median of its steps, the first ones left
out. How far the rounds of one way are apart, one after another, says how much is noise. Writes own-module-cpu.json or
own-module-gpu-<device>.json to $OUT, else bench/results.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastat
from bench.contests.machine import environment, now
from bench.reports.files import commit, date, file_name, results_folder
from fastat import models
from fastat.kernels import describe_environment
from fastat.support.files import write_json
from fastat.training import choose_device

_WARM_UP = 3  # steps of a round


@dataclass(frozen=True)
class Case:
    """A network, the shape of its inputs, the batch, and the steps of a round on a CPU, where they take seconds."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    batch: int
    steps: int


def _two_layers() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10))


CASES = {
    "a linear layer": Case(lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28), 128, 60),
    "two layers": Case(_two_layers, (1, 28, 28), 128, 60),
    "small CNN": Case(lambda: models.small_cnn(10, 1), (1, 8, 8), 128, 12),
    "PreAct ResNet-18": Case(lambda: models.preact_resnet18(10, 3), (3, 32, 32), 8, 4),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Times, prints, writes."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"--rounds must be at least 2, to say what is noise, got {options.rounds}")
    device = choose_device(options.device)
    machine = environment(device)
    found: dict[str, Any] = {
        "device": machine["device"],
        "environment": describe_environment(),
        "commit": commit(),
        "date": date(),
        "networks": {},
    }
    for name, case in CASES.items():
        steps = case.steps if device.type == "cpu" else 100
        found["networks"][name] = compared(case, device, options.rounds, steps)
        row = found["networks"][name]
        print(
            f"{name}: {1000 * row['plain']:.2f} ms a step in the plain loop, ours {row['ratio']:.3f} times that "
            f"(rounds of one way: {row['noise'][0]:.2f} to {row['noise'][1]:.2f} times the last)",
            flush=True,
        )
        write_json((options.out or results_folder()) / f"own-module-{file_name(machine)}.json", found)


def compared(case: Case, device: torch.device, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds per step both ways, and their ratio."""
    generator = torch.Generator().manual_seed(0)
    batch = case.batch
    x = torch.rand((steps + _WARM_UP) * batch, *case.shape, generator=generator)
    y = torch.randint(10, (len(x),), generator=generator)
    times: dict[str, list[list[float]]] = {"plain": [], "ours": []}
    for number in range(rounds):
        for way, timed in (("plain", plain), ("ours", ours)) if number % 2 else (("ours", ours), ("plain", plain)):
            torch.manual_seed(0)
            times[way].append(timed(case.make(), x, y, batch, device)[_WARM_UP:])
    middle = {way: [statistics.median(part) for part in found] for way, found in times.items()}
    ratios = sorted(b / a for a, b in zip(middle["plain"], middle["ours"], strict=True))
    itself = sorted(b / a for found in middle.values() for a, b in pairwise(found))
    return {
        "plain": statistics.median(middle["plain"]),
        "ours": statistics.median(middle["ours"]),
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "noise": [itself[0], itself[-1]],
        "batch": case.batch,
        "steps": rounds * steps,
    }


def plain(model: nn.Module, x: Tensor, y: Tensor, batch: int, device: torch.device) -> list[float]:
    """Seconds of every step of the loop that people write."""
    model = model.to(device)
    protocol = fastat.protocol("pgd-at", eps=8 / 255)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(x) // batch)
    moments = [now(device)]
    for some, labels in DataLoader(TensorDataset(x, y), batch, shuffle=True):
        loss = protocol(model, some.to(device), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        moments.append(now(device))
    return [after - before for before, after in pairwise(moments)]


def ours(model: nn.Module, x: Tensor, y: Tensor, batch: int, device: torch.device) -> list[float]:
    """The same of ``fastat.train``, in float32 as the other."""
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fastat.train(
            model, (x, y), fastat.protocol("pgd-at", eps=8 / 255), out=Path(folder), epochs=1, batch_size=batch, val=0,
            schedule="cosine", precision="fp32", device=device, quiet=True,
            on_step=lambda _: moments.append(now(device)),
        )  # fmt: skip
    return [after - before for before, after in pairwise(moments)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.rates.own_module", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="of each way (default: 8)")
    parser.add_argument("--device", help="cpu or cuda; by default the GPU if there is one")
    parser.add_argument("--out", type=Path, help="folder of the file")
    return parser


if __name__ == "__main__":
    main()
