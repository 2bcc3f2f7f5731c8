"""Settings that are objects or functions, in words: the same for the same in every process, other ones for others."""

import os
import subprocess
import sys
from decimal import Decimal
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastat.training.in_words import said


class Loss:
    """Made with a weight, and called."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, output, y):
        return self.weight * F.cross_entropy(output, y)

    def method(self, output):
        return self.weight * output


class Negated(Loss):
    def __call__(self, output, y):
        return -self.weight * F.cross_entropy(output, y)


def keyword(x, *, weight=1.0):
    return x * weight


def other_keyword(x, *, weight=2.0):
    return x * weight


other_keyword.__qualname__ = "keyword"


def scaled(factor):
    return lambda x: sum(factor * part for part in x)


def first(x):
    return sum(0.1 * part for part in x)


def second(x):
    return sum(0.9 * part for part in x)


second.__qualname__ = "first"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Loss(1.0), Loss(2.0)), (Loss(1.0).method, Loss(2.0).method), (Loss(1.0), Negated(1.0)),
        (keyword, other_keyword), (first, second), (scaled(1.0), scaled(2.0)), ({1, 2}, {3}),
        (partial(keyword, weight=1), partial(keyword, weight=2)), (torch.float32, torch.float64),
        (Decimal(1), Decimal(2)),
        (torch.zeros(300), torch.ones(300)), (np.zeros(300), np.ones(300)), (lambda x: x, lambda x: -x),
        (np.float32(0.5), np.float32(0.25)), ([1, (2, 3)], [1, (2, 4)]),
    ],
)  # fmt: skip
def test_what_differs_is_told_apart(one, other):
    assert said(one) == said(one) != said(other)
    assert len(str(said(one))) < 300


def test_what_training_changes_is_not_looked_at():
    nets = [nn.Linear(300, 300) for _ in range(2)]

    def attack(net):
        return lambda model, x, y: net(x)

    assert said(attack(nets[0])) == said(attack(nets[1])) and len(said(Loss(nets[0]))) < 300


def test_what_refers_to_itself():
    def walk(x):
        return walk(x - 1) if x else 0

    loop = Loss(1.0)
    loop.weight = loop
    assert said(walk) == said(walk) and "Loss" in said(loop)


def test_in_another_process_it_is_the_same():
    script = (
        "import torch.nn.functional as F; from fastat.training.in_words import said\n"
        "def f(o, y, base=F.cross_entropy):\n    return base(o, y) if o in {'ce', 'kl', 'dlr'} else 0\n"
        "print(said(f))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(seed)},
        ).stdout
        for seed in range(3)
    }  # fmt: skip
    assert len(found) == 1
