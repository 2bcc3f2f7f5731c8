"""A small network, and attacks on it replayed and as they are."""

import torch
from torch import nn

import fastat


def network(norm=True, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)).eval()


def batch(n=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, 8, 8, generator=g), torch.randint(5, (n,), generator=g)


def both(model, x, y, *args, **kwargs):
    """The attack replayed, and as it is."""
    return [fastat.pgd(model, x, y, *args, seed=3, graph=graph, **kwargs) for graph in (True, False)]
