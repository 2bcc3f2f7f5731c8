"""PGD-10 adversarial training beside the plain PyTorch loop: images per second, and what the network is worth.

``make gpu-train`` (``python -m bench.rates.training``): PreAct ResNet-18 on CIFAR-10, 30 epochs of ours, resumable,
evaluated on 1,000 test images, and a few hundred steps of the loop that people write: in strict float32, as PyTorch
comes (convolutions in TF32), and with what ours has on a GPU beside its kernels and graphs, bf16 and channels last. All
in one process; the plain loops take turns, in two halves each, whose difference says how much is noise, as does that of
our epochs. ``--quick`` is digits (359 test images) and the small CNN: a trial of the machinery, and on a CPU the
overhead of the loop; it writes into its folder of the runs. Writes train-rate-cpu.json or train-rate-gpu-<device>.json
to $OUT, else bench/results.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contests.machine import environment, now
from bench.peers.eager import linf_step, random_start
from bench.reports.files import commit, date, file_name, results_folder
from fastat import data
from fastat.data import Augmentation
from fastat.kernels import describe_environment
from fastat.report import attack_title, write_results
from fastat.support.files import write_json
from fastat.training import (
    Run,
    TrainConfig,
    choose_device,
    default_config,
    open_configured,
    train_configured,
    with_fields,
)

_WARM_UP = 5  # steps
_TEST_IMAGES = 1000
_QUICK: dict[str, Any] = {"epochs": 6}


@dataclass(frozen=True)
class Plain:
    """How the plain loop runs its network."""

    tf32: bool = True
    bf16: bool = False
    channels_last: Literal["on", "off"] = "off"


PLAIN = {
    "strict float32": Plain(tf32=False),
    "PyTorch's default": Plain(),
    "bf16, channels last": Plain(bf16=True, channels_last="on"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Times both, trains, evaluates, writes."""
    options = _parser().parse_args(arguments)
    device = choose_device(options.device)
    config = default_config("digits", **_QUICK) if options.quick else default_config("cifar10", epochs=options.epochs)
    machine = environment(device)
    found: dict[str, Any] = {
        "device": machine["device"],
        "environment": describe_environment(),
        "commit": commit(),
        "date": date(),
        "plain": plain_rates(config, options.out, device, options.steps),
    }
    file = (options.out if options.quick else results_folder()) / f"train-rate-{file_name(machine)}.json"
    write_json(file, found)  # again after the training, and after the evaluation: each takes its time
    torch.backends.cudnn.benchmark = True  # for ours as for theirs
    network = train_configured(config, options.out / "ours", device=device, checkpoint_every=60)
    rows = network.history
    rate = sum(row["images_per_second"] for row in rows[1:]) / max(1, len(rows) - 1)  # the first one also warms up
    found["ours"] = {
        "images_per_second": rate,
        "of_each_epoch": [row["images_per_second"] for row in rows],
        "seconds_of_steps": sum(row["seconds"] for row in rows),
        "epochs": len(rows),
        "model": config.network.model,
    }
    for name, plain in found["plain"].items():
        plain["ours_is_faster_by"] = rate / plain["images_per_second"]
        print(f"ours: {rate:,.0f} images/s, {plain['ours_is_faster_by']:.2f} times the plain loop's, {name}")
    write_json(file, found)
    test = data.load(config.dataset.data).test.subset(_TEST_IMAGES, 0).load().to(device)
    evaluated = write_results(network, test, options.out / "ours")
    found |= {"test_images": evaluated["test_images"], "accuracy": evaluated["accuracy"]}
    write_json(file, found)
    accuracy = ", ".join(f"{attack_title(name)} {row['accuracy']:.1%}" for name, row in evaluated["accuracy"].items())
    print(f"accuracy on {evaluated['test_images']:,} test images: {accuracy}")
    print(f"written: {file}")


def plain_rates(config: TrainConfig, out: Path, device: torch.device, steps: int) -> dict[str, Any]:
    """Images per second of the plain loops, of both halves together and of each."""
    half = max(1, steps // 2)
    halves: dict[str, list[float]] = {name: [] for name in PLAIN}
    for _ in range(2):
        for name, plain in PLAIN.items():
            halves[name].append(
                plain_rate(config, out / f"plain-channels-last-{plain.channels_last}", device, plain, half)
            )
    found = {}
    for name, rates in halves.items():
        rate = statistics.harmonic_mean(rates)
        found[name] = {"images_per_second": rate, "of_each_half": rates, "steps": 2 * half}
        print(f"plain loop, {name}: {rate:,.0f} images/s ({rates[0]:,.0f} and {rates[1]:,.0f})", flush=True)
    return found


def plain_rate(config: TrainConfig, folder: Path, device: torch.device, plain: Plain, steps: int) -> float:
    """Images per second of the textbook loop on the same network and data."""
    torch.backends.cudnn.allow_tf32 = plain.tf32
    torch.backends.cudnn.benchmark = True
    run = open_configured(with_fields(config, channels_last=plain.channels_last), folder, None, device)
    layout = torch.channels_last if plain.channels_last == "on" else torch.contiguous_format
    model = run.learner.model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    began = 0.0
    for step, (x, y) in enumerate(_batches(run, config, steps + _WARM_UP)):
        if step == _WARM_UP:
            began = now(device)
        _plain_step(config, model, optimizer, x.contiguous(memory_format=layout), y, plain.bf16)
    rate = steps * run.images.batch_size / (now(device) - began)
    torch.backends.cudnn.allow_tf32 = True
    return rate


def _plain_step(
    config: TrainConfig, model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, bf16: bool
) -> None:
    """Madry et al. (2018) as it is usually written: in train mode throughout, gradients of the parameters and all."""

    def loss_of(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            return F.cross_entropy(model(x), y)

    model.train()
    x_adv = random_start(x, config.threat.eps, "linf")
    for _ in range(config.method.attack_steps):
        x_adv = x_adv.detach().requires_grad_()
        gradient = torch.autograd.grad(loss_of(x_adv), x_adv)[0]
        x_adv = linf_step(x_adv, gradient, x, 2.5 * config.threat.eps / config.method.attack_steps, config.threat.eps)
    optimizer.zero_grad()
    loss_of(x_adv.detach()).backward()
    optimizer.step()


def _batches(run: Run, config: TrainConfig, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pass after pass over the images, cropped and flipped by the same code as ours."""
    given = 0
    for epoch in range(steps):
        order = torch.randperm(len(run.images.train_set))[: run.images.steps_per_epoch * run.images.batch_size]
        changed = Augmentation(config.dataset.augment, epoch=epoch)
        for batch in run.images.train_set.batches(order, run.images.batch_size, changed):
            if given == steps:
                return
            given += 1
            yield batch.x, batch.y


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.rates.training", description=__doc__)
    parser.add_argument("--epochs", type=int, default=30, help="of ours (default: 30)")
    parser.add_argument("--steps", type=int, default=300, help="of each plain loop, in two halves (default: 300)")
    parser.add_argument("--device", help="cpu or cuda; by default the GPU if there is one")
    parser.add_argument("--quick", action="store_true", help="digits and the small CNN")
    parser.add_argument("--out", type=Path, default=Path("runs/train-rate"), help="folder of the runs")
    return parser


if __name__ == "__main__":
    main()
