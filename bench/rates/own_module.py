"""What ``fastat.train`` adds to a step: one's own module in it, and in the loop that one would write with a protocol.

``python -m bench.rates.own_module``: the same networks and samples, PGD-10, SGD, no validation. Both ways take turns in
rounds, and each is compared with itself too: the ratio of its odd rounds to its even ones says how much is noise. Times
are medians of single steps, the first ones of every round left out. Writes own-module-cpu.json or own-module-gpu-
<device>.json to $OUT, else bench/results.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastat
from bench.contests.machine import environment
from bench.reports.files import commit, date, file_name, results_folder
from fastat.kernels import describe_environment
from fastat.support.files import write_json
from fastat.training import choose_device

_WARM_UP = 3  # steps of a round
_BATCH = 128
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a linear layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), (1, 28, 28)),
    "two layers": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)),
        (1, 28, 28),
    ),
    "small CNN": (lambda: fastat.models.small_cnn(10, 1), (1, 28, 28)),
    "PreAct ResNet-18": (lambda: fastat.models.preact_resnet18(10, 3), (3, 32, 32)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Times, prints, writes."""
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    machine = environment(device)
    found: dict[str, Any] = {
        "device": machine["device"],
        "environment": describe_environment(),
        "commit": commit(),
        "date": date(),
        "networks": {},
    }
    for name, (make, shape) in NETWORKS.items():
        large = name.startswith("PreAct") and device.type == "cpu"
        found["networks"][name] = compared(make, shape, device, options.rounds, 4 if large else options.steps)
        row = found["networks"][name]
        print(
            f"{name}: {1000 * row['plain']:.2f} ms a step in the plain loop, ours {row['ratio']:.3f} times that "
            f"(noise: {row['noise'][0]:.3f}, {row['noise'][1]:.3f})",
            flush=True,
        )
        write_json((options.out or results_folder()) / f"own-module-{file_name(machine)}.json", found)


def compared(
    make: Callable[[], nn.Module], shape: tuple[int, ...], device: torch.device, rounds: int, steps: int
) -> dict[str, Any]:
    """Seconds per step both ways, and their ratio."""
    generator = torch.Generator().manual_seed(0)
    batch = 16 if steps < 10 else _BATCH
    x = torch.rand((steps + _WARM_UP) * batch, *shape, generator=generator)
    y = torch.randint(10, (len(x),), generator=generator)
    times: dict[str, list[list[float]]] = {"plain": [], "ours": []}
    for number in range(rounds):
        for way, timed in (("plain", plain), ("ours", ours)) if number % 2 else (("ours", ours), ("plain", plain)):
            torch.manual_seed(0)
            times[way].append(timed(make(), x, y, batch, device)[_WARM_UP:])
    halves = {
        way: [statistics.median(one for part in found[start::2] for one in part) for start in range(2)]
        for way, found in times.items()
    }
    middle = {way: statistics.median(one for part in found for one in part) for way, found in times.items()}
    return {
        **middle,
        "ratio": middle["ours"] / middle["plain"],
        "noise": [halves[way][0] / halves[way][1] for way in ("plain", "ours")],
        "batch": batch,
        "steps": rounds * steps,
    }


def plain(model: nn.Module, x: Tensor, y: Tensor, batch: int, device: torch.device) -> list[float]:
    """Seconds of every step of the loop that people write."""
    model = model.to(device)
    protocol = fastat.protocol("pgd-at", eps=8 / 255)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(x) // batch)
    moments = [_now(device)]
    for some, labels in DataLoader(TensorDataset(x, y), batch, shuffle=True):
        loss = protocol(model, some.to(device), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        moments.append(_now(device))
    return [after - before for before, after in pairwise(moments)]


def ours(model: nn.Module, x: Tensor, y: Tensor, batch: int, device: torch.device) -> list[float]:
    """The same of ``fastat.train``, in float32 as the other."""
    moments: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        fastat.train(
            model, (x, y), fastat.protocol("pgd-at", eps=8 / 255), out=Path(folder), epochs=1, batch_size=batch, val=0,
            schedule="cosine", precision="fp32", device=device, quiet=True,
            on_step=lambda _: moments.append(_now(device)),
        )  # fmt: skip
    return [after - before for before, after in pairwise(moments)]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.rates.own_module", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, help="of each way (default: 6)")
    parser.add_argument("--steps", type=int, default=30, help="of a round (default: 30)")
    parser.add_argument("--device", help="cpu or cuda; by default the GPU if there is one")
    parser.add_argument("--out", type=Path, help="folder of the file")
    return parser


if __name__ == "__main__":
    main()
