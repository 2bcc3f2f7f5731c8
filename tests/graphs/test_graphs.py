"""Recorded attacks, by a stand-in for CUDA graphs; tests/cuda/test_cuda_recordings.py has the real ones."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
import torch.distributed as dist
from recorded_cases import batch, both, network
from stand_in import StandIn
from torch import nn

import fastat
from fastat.attacks.problem import Labels
from fastat.graphs import replay as graphs

pytestmark = pytest.mark.usefixtures("recorder")


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "kl"])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_replays_are_the_attack(norm, loss, keep):
    model = network()
    for seed in range(3):
        x, y = batch(seed=seed)
        recorded, plain = both(model, x, y, 0.1, steps=4, norm=norm, loss=loss, keep=keep)
        assert torch.equal(recorded, plain)
    assert StandIn.made == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"restarts": 3},
        {"restarts": 3, "keep": "best"},
        {"random_start": False},
        {"eps": torch.linspace(0, 0.2, 7)},
        {"step_size": torch.tensor(0.01)},
        {"targets": torch.arange(7) % 5},
        {"loss": "dlr_targeted", "targets": torch.arange(7) % 5},
        {"sample_ids": torch.arange(7) * 3},
        {"start": batch(seed=9)[0]},
        {"normalization": ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]), "bounds": (-10, 10)},
        {"bounds": None},
        {"steps": 0},
        {"validate": False},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_replays_are_the_attack_with_any_argument(changes):
    model = network()
    x, y = batch()
    if "targets" in changes:
        changes = changes | {"targets": (y + 1) % 5}
    changes = {"eps": 0.1, "steps": 3} | changes
    for _ in range(2):
        assert torch.equal(*both(model, x, y, **changes))
        x = x.flip(0)
    assert StandIn.made == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_replays_of_other_dtypes_and_layouts(dtype):
    model = network().to(dtype)
    x, y = batch()
    for layout in (torch.contiguous_format, torch.channels_last):
        data = x.to(dtype).contiguous(memory_format=layout)
        recorded, plain = both(model, data, y, 0.1, steps=3)
        assert torch.equal(recorded, plain) and recorded.dtype == dtype
        assert recorded.stride() == plain.stride()
    assert StandIn.made == 2


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("restarts", [1, 3])
def test_samples_that_are_won_leave_a_replayed_attack(keep, restarts):
    model = network().double()  # padded batches are rounded differently, which can flip a sign in float32
    for seed in range(3):
        x, y = batch(33, seed=seed)
        x = x.double()
        y[: 8 + seed] = model(x).argmax(1)[: 8 + seed]
        recorded, plain = both(model, x, y, 0.02, steps=7, keep=keep, restarts=restarts, early_stop=True)
        torch.testing.assert_close(recorded, plain, rtol=0, atol=1e-10)
    assert StandIn.made > 0


def test_every_setting_of_an_attack_has_its_own_recording():
    model = network().double()
    x, y = batch()
    x = x.double()
    usual = {"eps": 0.1, "step_size": 0.04, "steps": 3}
    others = [
        {}, {"eps": 0.2}, {"step_size": 0.01}, {"steps": 2}, {"norm": "l2"}, {"loss": "margin"}, {"keep": "best"},
        {"restarts": 2}, {"bounds": (0, 2)}, {"bounds": (-1, 1)}, {"random_start": False}, {"targets": (y + 1) % 5},
        {"early_stop": True}, {"early_stop": True, "eps": 0.2}, {"early_stop": True, "keep": "best"},
    ]  # fmt: skip
    for _ in range(2):
        for change in others:
            torch.testing.assert_close(*both(model, x, y, **(usual | change)), rtol=0, atol=1e-10)
        for noise, clip in ((1, True), (1, False), (2, True)):
            arguments = {"noise": noise, "clip": clip, "seed": 3}
            found = [fastat.fgsm(model, x, y, 0.1, graph=graph, **arguments) for graph in (True, False)]
            assert torch.equal(*found)


@pytest.mark.parametrize("change", [{}, {"noise": 1, "step_size": 0.125}, {"noise": 2, "clip": False}], ids=str)
def test_single_steps(change):
    model = network()
    for seed in range(2):
        x, y = batch(seed=seed)
        found = [fastat.fgsm(model, x, y, 0.1, seed=seed, graph=graph, **change) for graph in (True, False)]
        assert torch.equal(*found)
    assert StandIn.made == 1


def test_results_belong_to_the_caller():
    model = network()
    x, y = batch()
    first = fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph=True)
    kept = first.clone()
    fastat.pgd(model, x.flip(0), y, 0.1, steps=2, seed=1, graph=True)
    assert torch.equal(first, kept)


def test_the_mode_decides_the_recording_and_statistics_move_as_without():
    x, y = batch()
    found = []
    for graph in (True, False):
        model = network().train()
        x_adv = [fastat.pgd(model, x, y, 0.1, steps=3, seed=s, graph=graph, training=True) for s in range(2)]
        model.eval()
        x_adv.append(fastat.pgd(model, x, y, 0.1, steps=3, seed=5, graph=graph))
        found.append([*x_adv, *(b.clone() for b in model.buffers())])
        assert all(module.training is False for module in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert StandIn.made == 2


def test_settings_of_torch_decide_the_recording():
    model = network()
    x, y = batch()
    both(model, x, y, 0.1, steps=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        recorded, plain = both(model, x, y, 0.1, steps=2)
        assert torch.equal(recorded, plain)
        with torch.no_grad():
            model[-1].weight.mul_(-1)  # a cached cast would hide it
        assert torch.equal(*both(model, x, y, 0.1, steps=2))
        assert torch.is_autocast_cache_enabled()
    assert StandIn.made == 2


def test_works_on_compiled_and_wrapped_modules():
    model = network(norm=False)
    compiled = torch.compile(model, backend="eager")
    x, y = batch()
    for _ in range(2):
        assert torch.equal(*both(compiled, x, y, 0.1, steps=2))
    assert StandIn.made == 1
    assert torch.equal(*both(fastat.Normalized(model, [0.5] * 3, [0.2] * 3), x, y, 0.1, steps=2))


def test_a_ddp_model_shares_the_recording_of_its_inner_module(tmp_path):
    model = network()
    x, y = batch()
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            assert torch.equal(*both(wrapped, x, y, 0.1, steps=2))
            assert torch.equal(*both(model, x, y, 0.1, steps=2))
            nn.functional.cross_entropy(wrapped(x), y).backward()
            with torch.no_grad():
                for p in model.parameters():
                    p -= 0.5 * p.grad
        assert StandIn.made == 1
        graphs.forget(wrapped)
        assert torch.equal(*both(model, x, y, 0.1, steps=2))
        assert StandIn.made == 2
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_leaves_everything_as_found(mode):
    model = network().train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    x, y = batch()
    states = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    threads = torch.get_num_threads()
    with mode():
        fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph=True)
        assert not torch.is_grad_enabled()
    assert (states[0], states[1]) == (random.getstate(), str(np.random.get_state()))
    assert torch.equal(states[2], torch.get_rng_state()) and threads == torch.get_num_threads()
    assert all(p.requires_grad for p in model.parameters())
    assert model[0].weight.grad.eq(1).all() and model[5].weight.grad is None
    assert model[1].num_batches_tracked == 2


def test_auto_records_what_comes_twice():
    model = network()
    x, y = batch()
    for made in (0, 1, 1):
        x_adv = fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph="auto")
        assert torch.equal(x_adv, fastat.pgd(model, x, y, 0.1, steps=2, seed=0))
        assert StandIn.made == made
    fastat.pgd(model, x[:3], y[:3], 0.1, steps=2, seed=0, graph="auto")
    assert StandIn.made == 1


def test_without_a_seed_replays_start_elsewhere_as_torch_has_drawn():
    model = network()
    x, y = batch()
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append([fastat.pgd(model, x, y, 0.1, steps=0, graph=True) for _ in range(3)])
    torch.manual_seed(5)
    plain = [fastat.pgd(model, x, y, 0.1, steps=0) for _ in range(3)]
    assert StandIn.made == 1
    assert not torch.equal(found[0][0], found[0][1]) and not torch.equal(found[0][1], found[0][2])
    assert all(torch.equal(a, c) and torch.equal(b, c) for a, b, c in zip(*found, plain, strict=True))


def test_a_seed_may_be_a_tensor():
    model = network()
    x, y = batch()
    seed = torch.tensor(7)
    found = []
    for _ in range(2):
        found += [fastat.pgd(model, x, y, 0.1, steps=2, seed=seed, graph=graph) for graph in (True, False)]
        seed += 1
    assert torch.equal(found[0], found[1]) and torch.equal(found[2], found[3]) and not torch.equal(found[0], found[2])
    assert torch.equal(found[0], fastat.pgd(model, x, y, 0.1, steps=2, seed=7)) and StandIn.made == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels_last"])
@pytest.mark.parametrize("mode", ["train", "eval", "early_stop"])
@pytest.mark.parametrize("autocast", [False, True])
def test_combinations_of_precision_mode_and_layout(autocast, mode, layout):
    found = []
    for graph in (True, False):
        model = network().train(mode == "train").to(memory_format=layout)
        for seed in range(3):
            x, y = batch(8, seed=seed)
            x = x.contiguous(memory_format=layout)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                y[:4] = y[:4] if mode == "train" else model(x).argmax(1)[:4]
                found.append(
                    fastat.pgd(model, x, y, 0.1, steps=5, seed=seed, early_stop=mode == "early_stop", graph=graph)
                )
        found += [b.clone() for b in model.buffers()]
    half = len(found) // 2
    for recorded, plain in zip(found[:half], found[half:], strict=True):
        assert recorded.stride() == plain.stride()
        different = recorded.ne(plain).float().mean()
        assert different <= (0.02 if mode == "early_stop" else 0)  # other batches may round otherwise
    assert StandIn.made > 0


def test_errors_are_those_of_the_plain_attack():
    model = network()
    x, y = batch()
    with pytest.raises(ValueError, match="graph must be True, False or 'auto', got 'yes'"):
        fastat.pgd(model, x, y, 0.1, graph="yes")
    with pytest.raises(ValueError, match=r"labels must be in \[0, 5\), got 7"):
        fastat.pgd(model, x, y + 3, 0.1, graph=True)
    both(model, x, y, 0.1, steps=2)
    with pytest.raises(ValueError, match="outside the bounds"):
        fastat.pgd(model, x + 2, y, 0.1, steps=2, graph=True)
    with pytest.raises(ValueError, match="one label for each position"):
        fastat.pgd(nn.Conv2d(3, 3, 3), x, y, 0.1, graph=True)


def test_the_module_is_looked_over_while_the_device_looks_at_the_batch(monkeypatch):
    model = network().train()
    x, y = batch()
    fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph=True)
    order = []
    survey, settle = graphs.survey, Labels.settle
    monkeypatch.setattr(graphs, "survey", lambda model: order.append("survey") or survey(model))
    monkeypatch.setattr(Labels, "settle", lambda labels: order.append("settle") or settle(labels))
    fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph=True)
    assert order == ["survey", "settle"]
    before = model[1].running_mean.clone()
    for change in ({"x": x + 2}, {"y": y - 5}, {"y": y + 5}, {"eps": torch.full((7,), -1.0)}):
        with pytest.raises(ValueError, match=r"must be|outside"):
            fastat.pgd(model, **({"x": x, "y": y, "eps": 0.1} | change), steps=2, seed=0, graph=True)
    assert torch.equal(model[1].running_mean, before)


def test_recordings_die_with_their_module():
    model = network()
    x, y = batch()

    def loss(z, y, of=model):
        return nn.functional.cross_entropy(z, y, reduction="none")

    fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    fastat.pgd(model, x, y, 0.1, steps=2, graph=True, loss=loss)
    gone = weakref.ref(model)
    del model, loss
    gc.collect()
    assert gone() is None


def test_forgotten_recordings_are_made_again():
    model = network()
    x, y = batch()
    for made in (1, 2):
        fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
        graphs.forget(model)
        assert StandIn.made == made and model not in graphs._all_recordings
    graphs.forget(model)


def test_a_backward_pass_that_waits_is_not_disturbed():
    model = network()
    x, y = batch()
    loss = model(x).sum()
    fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    loss.backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_batches_of_any_size_share_few_recordings():
    model = network().double()
    for n in range(1, 60, 3):
        x, y = batch(n, seed=n)
        found = both(model, x.double(), y, 0.05, steps=4, early_stop=True)
        torch.testing.assert_close(*found, rtol=0, atol=1e-10)
    assert StandIn.made <= 2 * 7  # 8, 12, 16, 24, 32, 48, 64; the last steps apart


@pytest.mark.parametrize(("n", "most"), [(129, 144), (137, 144), (128, 128), (65, 72), (33, 48)])
def test_a_padded_batch_is_little_longer(n, most):
    rows = set()

    class Counted(nn.Sequential):
        def forward(self, x):
            rows.add(len(x))
            return super().forward(x)

    x, y = batch(n)
    x = x.double()
    model = Counted(*network()).double()
    y[: n // 2] = model(x).argmax(1)[: n // 2]
    rows.clear()
    for restarts in (1, 3):
        found = fastat.pgd(model, x, y, 0.02, steps=6, restarts=restarts, seed=3, early_stop=True, graph=True)
        assert max(rows) == most
        plain = fastat.pgd(model, x, y, 0.02, steps=6, restarts=restarts, seed=3, early_stop=True)
        torch.testing.assert_close(found, plain, rtol=0, atol=1e-10)


def test_only_so_many_are_kept():
    model = network()
    for n in [*range(1, graphs.MOST_RECORDINGS + 2), 1]:
        x, y = batch(n)
        fastat.pgd(model, x, y, 0.1, steps=1, graph=True)
    assert StandIn.made == graphs.MOST_RECORDINGS + 2
    assert len(graphs._all_recordings[model].entries) == graphs.MOST_RECORDINGS
