"""Attacks under autocast, and gradients of parameters: neither more casts nor more gradients than needed, none kept."""

import pytest
import torch
from recorded_cases import batch, network
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
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


def test_a_batch_of_sequences_is_multiplied_by_a_matrix_at_once():
    class Sequences(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.linear = nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 5)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return self.linear(self.attention(x, x, x, need_weights=False)[0]).mean(1)

    x, y, model = torch.rand(4, 12, 3, 3), torch.arange(4), Sequences().eval()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        fastat.pgd(model, x, y, 0.1, steps=2)
    assert not any(event.key == "aten::bmm" for event in profiler.key_averages())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.fixture
def compiler():
    """Nothing that was compiled before counts."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", [None, "eager", "aot_eager"])
@pytest.mark.parametrize("autocast", [False, True])
def test_no_gradient_reaches_a_parameter(compiler, backend, autocast):
    model = network(norm=False)
    fired = []
    for name, p in model.named_parameters():
        p.register_hook(lambda grad, name=name: fired.append(name))
    attacked = model if backend is None else torch.compile(model, backend=backend)
    x, y = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        for arguments in ({}, {"keep": "best"}, {"loss": "kl"}, {"early_stop": True}):
            fastat.pgd(attacked, x, y, 0.1, steps=2, **arguments)
        assert not fired
        attacked(x).sum().backward()
    assert sorted(fired) == sorted(name for name, _ in model.named_parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_compiled_code_computes_the_gradient_of_the_input_alone(compiler, autocast):
    gradients = []

    def backward(graph, inputs):
        made = next(node for node in graph.graph.nodes if node.op == "output").args[0]
        gradients.append(sum(value is not None for value in made))
        return make_boxed_func(graph.forward)

    def forward(graph, inputs):
        return make_boxed_func(graph.forward)

    model = network(norm=False)
    compiled = torch.compile(model, backend=aot_autograd(fw_compiler=forward, bw_compiler=backward))
    x, y = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        fastat.pgd(compiled, x, y, 0.1, steps=2)
        compiled(x).sum().backward()
    assert gradients == [1, len(list(model.parameters()))]


def test_attacks_on_a_compiled_model_share_one_more_variant(compiler):
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    inner = network(norm=False)
    model = torch.compile(inner, backend=backend)
    x, y = batch()
    for variants, work in [(1, "train"), (2, "attack"), (2, "attack"), (2, "train"), (2, "attack"), (2, "train")]:
        if work == "attack":
            fastat.pgd(model, x, y, 0.1, steps=3)
        else:
            inner.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            assert all(p.grad.abs().sum() > 0 for p in inner.parameters())
        assert len(compiled) == variants


def bytes_kept(work):
    """What autograd keeps for backward passes meanwhile, in bytes of memory."""
    kept = []
    with saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        work()
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(storages.values())


@pytest.mark.parametrize("train", [False, True])
def test_a_step_keeps_no_more_than_a_forward_pass(train):
    model = network().train(train)
    x, y = batch(64)
    forward = bytes_kept(lambda: model(x.clone().requires_grad_()).sum())
    assert 0 < bytes_kept(lambda: fastat.pgd(model, x, y, 0.1, steps=1, seed=0)) <= forward
