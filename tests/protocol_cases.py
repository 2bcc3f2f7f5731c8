"""A small network and batch in float64, and protocols, that the tests of protocols share."""

import torch
from torch import nn

import fastat


def network(normalized=False, seed=0):
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(4) if normalized else nn.Identity()
    layers = [nn.Conv2d(1, 4, 3, padding=1), norm, nn.Tanh(), nn.Flatten(), nn.Linear(64, 12), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(12, 3)).double()


def batch(n=12):
    g = torch.Generator().manual_seed(1)
    x = torch.rand(n, 1, 4, 4, generator=g, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=g), torch.arange(n)


def gradients(model):
    return [p.grad for p in model.parameters()]


def same(these, those, atol=1e-12):
    for one, other in zip(these, those, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


PROTOCOLS = {
    "pgd-at": fastat.protocol("pgd-at", eps=0.1, steps=3),
    "trades": fastat.protocol("trades", eps=0.1, steps=3),
    "mart": fastat.protocol("mart", eps=0.1, steps=2),
    "rs-fgsm": fastat.protocol("rs-fgsm", eps=0.1),
    "gradalign": fastat.protocol("gradalign", eps=0.1),
    "hr": fastat.protocol("hr", eps=0.1, steps=2),
    "bat": fastat.protocol("bat", eps=0.1, steps=2),
}
OF_A_BATCH = ("hr", "bat")
