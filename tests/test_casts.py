"""Attacks under autocast, and gradients of parameters: neither more casts nor more gradients than needed, none kept."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastat


class CountsCasts(TorchDispatchMode):
    """How often tensors of one shape are cast."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.casts = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and args[0].shape == self.shape:
            self.casts += 1
        return func(*args, **(kwargs or {}))


def test_under_autocast_weights_are_cast_once_and_never_old():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5))
    x, y = torch.rand(4, 3, 2, 2), torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with CountsCasts(model[1].weight.shape) as counter:
            first = fastat.pgd(model, x, y, 0.1, steps=6, seed=0)
        assert counter.casts == 1
        model(x)  # casts, and torch would keep what it cast
        with torch.no_grad():
            model[1].weight.mul_(-1)
        assert not torch.equal(first, fastat.pgd(model, x, y, 0.1, steps=6, seed=0))
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_what_an_attack_casts_without_gradient_is_not_trained_on():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    x, y = torch.rand(4, 3, 2, 2), torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = fastat.pgd(model, x, y, 0.1, steps=2, seed=0, loss="kl", keep="best")
        nn.functional.cross_entropy(model(x_adv).float(), y).backward()
    assert model[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("autocast", [False, True])
def test_no_gradient_of_a_parameter_is_computed(autocast):
    class Linear(torch.autograd.Function):
        asked = 0

        @staticmethod
        def forward(ctx, x, weight):
            ctx.save_for_backward(weight)
            return x @ weight.to(x.dtype).T

        @staticmethod
        def backward(ctx, grad):
            Linear.asked += ctx.needs_input_grad[1]
            return grad @ ctx.saved_tensors[0].to(grad.dtype), None

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 12))

        def forward(self, x):
            return Linear.apply(x.flatten(1), self.weight)

    model = torch.compile(Model(), backend="eager") if autocast else Model()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        fastat.pgd(model, torch.rand(4, 3, 2, 2), torch.arange(4), 0.1, steps=2)
    assert Linear.asked == 0
