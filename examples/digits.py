"""What the examples share: images of handwritten digits, a small network, and how robust it is."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastat

EPS = 0.1


def loader(batch_size: int = 64, train: bool = True) -> DataLoader:
    """Batches of images [B, 1, 8, 8] in [0, 1], labels [B] and ids [B]: the number of each image in the dataset."""
    digits = fastat.data.load("digits")
    half = digits.train if train else digits.test
    images = TensorDataset(half.pixels(), half.labels, torch.arange(len(half)))
    return DataLoader(images, batch_size, shuffle=train, drop_last=train)


def network() -> nn.Module:
    """Any classifier would do."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip


def robust_accuracy(model: nn.Module) -> str:
    """On the test images, clean and under PGD-20."""
    digits = fastat.data.load("digits").test
    device = next(model.parameters()).device
    x, y = digits.pixels().to(device), digits.labels.to(device)
    model.eval()
    found = fastat.evaluation.evaluate(model, x, y, EPS, attacks=("pgd-20",)).accuracy
    return f"accuracy {found['clean']:.1%} on clean test images, {found['pgd-20']:.1%} under PGD-20"
