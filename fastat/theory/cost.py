"""What trainings will cost, counted before they start."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import torch

from fastat import data, models
from fastat.theory.threads import one_thread
from fastat.training import TrainConfig, choose_device, layout_of, placed

_SIZES: Mapping[str, tuple[int, tuple[int, ...], int]] = {
    "mnist": (60_000, (1, 28, 28), 10),
    "fashion-mnist": (60_000, (1, 28, 28), 10),
    "cifar10": (50_000, (3, 32, 32), 10),
    "cifar100": (50_000, (3, 32, 32), 100),
    "svhn": (73_257, (3, 32, 32), 10),
    "tiny-imagenet": (100_000, (3, 64, 64), 200),
    "imagenet": (1_281_167, (3, 224, 224), 1000),
}
_TIMED_PASSES = 3
_CPU_BATCH = 8  # enough to see what an image costs
_MINUTE, _HOUR = 60.0, 3600.0


def data_size(name: str) -> tuple[int, tuple[int, ...], int]:
    """Training images, (C, H, W) and classes of a dataset, also of one that has to be fetched yet.

    Raises:
        FileNotFoundError, ValueError: as :func:`fastat.data.load`, of a dataset that its name says where to find.
    """
    if name in _SIZES:
        return _SIZES[name]
    train = data.load(name).train
    return len(train), train.image_shape, len(train.classes)


def training_cost(
    configs: Sequence[TrainConfig], train_images: int, image_shape: tuple[int, ...], num_classes: int
) -> str:
    """A sentence: how many trainings, passes of an image through the network, and what time that is on this machine.

    A pass is forward and backward. Its time is measured here, now, on a batch of each network in float32; on a CPU on
    one thread, as cells of a sweep run. So the estimate leaves out evaluations, the number of processes, and what a GPU
    gains from bfloat16.

    Args:
        configs: the trainings.
        train_images: training images of each, at most.
        image_shape: (C, H, W).
        num_classes: length of the logits.
    """
    passes = seconds = 0.0
    measured: dict[tuple[str, int | None, int], float] = {}
    for config in configs:
        images = min(train_images, config.dataset.train_size or train_images)
        count = config.optimizer.epochs * images * passes_per_image(config)
        key = (config.network.model, config.network.width, min(config.optimizer.batch_size, images))
        if key not in measured:
            measured[key] = _seconds_per_pass(config, key[2], image_shape, num_classes)
        passes += count
        seconds += count * measured[key]
    epochs = sum(config.optimizer.epochs for config in configs)
    return (
        f"{len(configs)} trainings of {epochs:,} epochs together, {passes:.3g} passes of an image through the network, "
        f"about {duration(seconds)} on {_place()} one after another"
    )


def _place() -> str:
    device = choose_device(None)
    return "one thread" if device.type == "cpu" else str(device)


def passes_per_image(config: TrainConfig) -> int:
    """Forward and backward passes of an image in an epoch: of the attack, of the loss, of what is added to it."""
    method = config.method
    steps = {"none": 0, "free": 0, "pgd": method.attack_steps, "pgd-kl": method.attack_steps}
    attack = steps.get(method.attack, 1)
    clean = int(method.loss != "cross-entropy")
    alignment = 3 if method.grad_align > 0 else 0  # two gradients, and the second derivative of one
    weights = 1 if method.awp > 0 else 0
    return attack + 1 + clean + alignment + weights


def _seconds_per_pass(config: TrainConfig, batch: int, shape: tuple[int, ...], num_classes: int) -> float:
    network, device = config.network, choose_device(None)
    with torch.random.fork_rng(devices=[]):
        model = models.build(network.model, num_classes, shape[0], width=network.width, image_size=shape[1:])
    network_there = placed(model, layout_of(config.run.channels_last, device), device)
    size = min(batch, _CPU_BATCH) if device.type == "cpu" else batch
    x = torch.zeros(size, *shape, device=device)

    def timed() -> float:
        began = time.perf_counter()
        loss = network_there(x).sum()
        loss.backward()
        loss.item()  # waits for a GPU
        return time.perf_counter() - began

    with one_thread():
        return min(timed() for _ in range(_TIMED_PASSES)) / size


def duration(seconds: float) -> str:
    """Seconds as text, in the unit that fits."""
    if seconds >= _HOUR:
        return f"{seconds / _HOUR:,.3g} hours"
    return f"{seconds / _MINUTE:.1f} minutes" if seconds >= _MINUTE else f"{seconds:.0f} seconds"
