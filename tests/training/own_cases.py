"""A network and samples of one's own, small, that tests of training share."""

from pathlib import Path

import torch
from torch import nn

import fastat

PROTOCOL = fastat.protocol("pgd-at", eps=0.1, steps=2)
SHORT = {"epochs": 2, "batch_size": 32, "val": 16, "quiet": True, "device": "cpu"}


def network(inputs: int = 12, classes: int = 4) -> nn.Module:
    """With dropout, whose draws must be resumed, and batch norm."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, classes)
    )


class Output(dict):
    """What holds logits, as Hugging Face's models return it."""

    @property
    def logits(self) -> torch.Tensor:
        return self["logits"]


class Wrapped(nn.Module):
    """Returns an :class:`Output`."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: torch.Tensor) -> Output:
        return Output(logits=self.inner(x))


def samples(n: int = 112, shape: tuple[int, ...] = (12,), classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Separable ones, in [0, 1]."""
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(n) % classes
    centres = torch.rand(classes, *shape, generator=generator)
    return (0.8 * centres[y] + 0.2 * torch.rand(n, *shape, generator=generator)).clamp(0, 1), y


class Drawn(torch.utils.data.Dataset):
    """Samples with noise drawn by torch's global generator."""

    classes = ("a", "b", "c", "d")

    def __init__(self, n: int = 112) -> None:
        self.x, self.y = samples(n)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return (self.x[index] + 0.05 * torch.rand(12)).clamp(0, 1), int(self.y[index])


def short(
    folder: Path, model: nn.Module | str | None = None, given=None, protocol=PROTOCOL, **changes
) -> fastat.Network:
    """A short training of theirs, with some of its arguments changed."""
    return fastat.train(
        network() if model is None else model, samples() if given is None else given, protocol, out=folder,
        **{**SHORT, **changes},
    )  # fmt: skip
