"""Optimizers, schedules and warm-ups: each step is torch's own, and one that is not finite changes nothing."""

import copy
import dataclasses
from functools import partial

import pytest
import torch
from own_cases import PROTOCOL, SHORT, network, samples
from torch import nn

import fastat
from fastat.training import loop as training
from fastat.training.config import OptimizerConfig
from fastat.training.optimizers import described, optimizer_of, own_optimizer, scale_momenta, step_if, steps_on_device
from fastat.training.schedules import schedule_of, warmed

STEPS = 40


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator, dtype=p.dtype)


def stepped(settings: OptimizerConfig) -> nn.Module:
    """Our steps, as the training makes them."""
    model = network().double()
    optimizer, schedule = optimizer_of(settings, model), schedule_of(settings)
    for step in range(STEPS):
        progress = step / STEPS
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * schedule.rate(progress)
        if schedule.momentum is not None:
            scale_momenta(optimizer, torch.tensor(schedule.momentum(progress), dtype=torch.float64))
        gradients(model, step)
        step_if(optimizer, torch.tensor(True))
    return model


def assert_close(one: nn.Module, other: nn.Module) -> None:
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("peak", [0.5, 0.25])
def test_cycled_momentum_is_that_of_torch(peak):
    settings = OptimizerConfig(lr=0.2, peak=peak, peak_momentum=0.8, weight_decay=5e-4)
    model = network().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    up = int(peak * STEPS)
    schedule = torch.optim.lr_scheduler.CyclicLR(
        optimizer, 0.0, 0.2, step_size_up=up, step_size_down=STEPS - up, base_momentum=0.8, max_momentum=0.9
    )
    for step in range(STEPS):
        gradients(model, step)
        optimizer.step()
        schedule.step()
    assert_close(stepped(settings), model)


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (OptimizerConfig(optimizer="adam", lr=0.01, weight_decay=0.1), partial(torch.optim.Adam, weight_decay=0.1)),
        (OptimizerConfig(optimizer="adamw", lr=0.01, weight_decay=0.1), partial(torch.optim.AdamW, weight_decay=0.1)),
    ],
    ids=["adam", "adamw"],
)
def test_named_optimizers_are_those_of_torch(settings, theirs):
    settings = dataclasses.replace(settings, schedule="constant")
    model = network().double()
    optimizer = theirs(model.parameters(), lr=settings.lr)
    for step in range(STEPS):
        gradients(model, step)
        optimizer.step()
    assert_close(stepped(settings), model)


def test_no_decay_where_none_is_wanted():
    settings = OptimizerConfig(optimizer="adamw", weight_decay=0.3, exempt_norm_and_bias=True)
    model = network()
    groups = optimizer_of(settings, model).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert all(p.dim() > 1 for p in groups[0]["params"]) and all(p.dim() == 1 for p in groups[1]["params"])
    model[1].requires_grad_(False)
    assert sum(len(group["params"]) for group in optimizer_of(settings, model).param_groups) == 4


@pytest.mark.parametrize("make", ["sgd", "adam", torch.optim.RAdam, partial(torch.optim.SGD, lr=0.1, momentum=0.9)])
def test_a_step_that_is_not_finite_is_skipped(make):
    model = network()
    named = isinstance(make, str)
    optimizer = optimizer_of(OptimizerConfig(optimizer=make), model) if named else own_optimizer(make, model)
    assert steps_on_device(optimizer) == named
    for finite in (True, False):
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
        gradients(model, 1)
        step_if(optimizer, torch.tensor(finite))
        after = model.state_dict(), optimizer.state_dict()["state"]
        same = all(a.equal(b) for a, b in zip(before[0].values(), after[0].values(), strict=True))
        assert same != finite
        if not finite:
            for one, other in zip(before[1].values(), after[1].values(), strict=True):
                assert all(torch.as_tensor(one[key]).equal(torch.as_tensor(other[key])) for key in one)


def test_a_first_step_that_is_skipped_leaves_no_trace():
    """Of a fused SGD of one's own torch would leave the momentum unwritten."""
    make = partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True)
    nets = [network() for _ in range(2)]
    skipping, fresh = (own_optimizer(make, net) for net in nets)
    assert steps_on_device(skipping)
    gradients(nets[0], 1)
    step_if(skipping, torch.tensor(False))
    for net, optimizer in zip(nets, (skipping, fresh), strict=True):
        gradients(net, 2)
        step_if(optimizer, torch.tensor(True))
    assert all(a.equal(b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


def test_an_optimizer_in_words():
    assert described(torch.optim.Rprop(network().parameters(), 0.1)).startswith("Rprop(lr=0.1, etas=[0.5, 1.2]")
    groups = [{"params": [p], "lr": lr} for p, lr in zip(network().parameters(), (0.1, 0.2), strict=False)]
    assert "lr=0.1" in (text := described(torch.optim.SGD(groups))) and "; lr=0.2" in text


def test_groups_of_ones_own_keep_their_rates(tmp_path):
    def groups(parameters):
        return torch.optim.SGD([{"params": parameters[:1], "lr": 0.5}, {"params": parameters[1:]}], lr=0.01)

    lrs, model = [], network()
    fastat.train(
        model, samples(), PROTOCOL, out=tmp_path, optimizer=groups, schedule=lambda t: 1 - t,
        on_step=lambda report: lrs.append(report.lr), **SHORT,
    )  # fmt: skip
    assert lrs == pytest.approx([0.5 * (1 - (step + 0.5) / 6) for step in range(6)])


def test_a_step_of_ones_own_optimizer_is_skipped_in_a_run(tmp_path, monkeypatch):
    seen, take_step = [], training.take_step

    def poisoned(run, batch):
        if run.state.step == 1:
            before = copy.deepcopy(run.learner.model.state_dict())
            take_step(run, batch._replace(x=batch.x * float("nan")))
            seen.append(
                all(a.equal(b) for a, b in zip(before.values(), run.learner.model.state_dict().values(), strict=True))
            )
        else:
            take_step(run, batch)

    monkeypatch.setattr(training, "take_step", poisoned)
    found = fastat.train(
        network()[:2], samples(), PROTOCOL, out=tmp_path, optimizer=torch.optim.Adagrad, on_collapse="warn", **SHORT
    )
    assert seen == [True] and found.history[0]["train"]["skipped"] == 1


def test_warm_ups():
    settings = OptimizerConfig(eps_warmup=2.0, awp_warmup=1.0)
    protocol = fastat.protocol("trades", eps=0.2, awp=0.01)
    at = {epoch: warmed(protocol, settings, epoch) for epoch in (0.0, 0.5, 1.0, 1.5, 2.0, 5.0)}
    assert [one.attack.eps for one in at.values()] == pytest.approx([0, 0.05, 0.1, 0.15, 0.2, 0.2])
    assert [one.awp for one in at.values()] == [0, 0, 0.01, 0.01, 0.01, 0.01]
    assert at[2.0] is protocol and at[0.5] == dataclasses.replace(
        protocol, awp=0.0, attack=dataclasses.replace(protocol.attack, eps=0.05)
    )


def test_a_run_warms_up(tmp_path, monkeypatch):
    reached, take_step = [], training.take_step

    def watching(run, batch):
        take_step(run, batch)
        reached.append(run.pace(run.state.step).protocol.attack.eps)

    monkeypatch.setattr(training, "take_step", watching)
    protocol = fastat.protocol("fgsm-at", eps=0.1)
    fastat.train(network(), samples(), protocol, out=tmp_path / "run", eps_warmup=1.0, **SHORT)
    assert reached == pytest.approx([0.1 / 6, 0.05, 0.5 / 6, 0.1, 0.1, 0.1])
    # the very first step is that of the smaller radius
    first = fastat.protocol("fgsm-at", eps=0.1 / 6)
    runs = {}
    for name, one, more in (("warm", protocol, {"eps_warmup": 1.0}), ("small", first, {})):
        stop = pytest.raises(RuntimeError, match="enough")
        losses = runs[name] = []

        def listen(report, losses=losses):
            losses.append(float(report.loss))
            raise RuntimeError("enough")

        with stop:
            fastat.train(network(), samples(), one, out=tmp_path / name, on_step=listen, **more, **SHORT)
    assert runs["warm"] == runs["small"]
