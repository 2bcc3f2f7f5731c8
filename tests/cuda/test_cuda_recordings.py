"""Attacks and training steps replayed from CUDA graphs are the attacks and steps."""

import copy
import gc
from itertools import pairwise

import pytest
import torch
from cuda_cases import DELAY, DEVICE
from torch import nn

import fastat
from fastat.graphs import replay as graphs
from fastat.graphs.replay import CaptureError
from fastat.models import preact_resnet18, small_cnn
from fastat.training import default_config, open_configured, train_configured
from fastat.training.loop import take_step


def network(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 5)).to(DEVICE).eval()


def batch(n=7, seed=0, size=8):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size, size, generator=g).to(DEVICE), torch.randint(5, (n,), generator=g).to(DEVICE)


def both(model, x, y, *args, **kwargs):
    """The attack replayed, and as it is."""
    return [fastat.pgd(model, x, y, *args, seed=3, graph=graph, **kwargs) for graph in (True, False)]


def recordings_of(model):
    return list(graphs._all_recordings[model].entries.values())


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("loss", ["ce", "margin", "dlr", "kl"])
@pytest.mark.parametrize("keep", ["last", "best"])
def test_replays_are_the_attack(exact_model, norm, loss, keep):
    model = network()
    for seed in range(3):
        x, y = batch(seed=seed)
        assert torch.equal(*both(model, x, y, 0.1, steps=4, norm=norm, loss=loss, keep=keep))
    assert len(recordings_of(model)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"restarts": 3},
        {"restarts": 3, "keep": "best"},
        {"random_start": False},
        {"eps": torch.linspace(0, 0.2, 7)},
        {"step_size": torch.tensor(0.01)},
        {"loss": "dlr_targeted", "targets": torch.tensor([1, 2, 3, 4, 0, 1, 2])},
        {"sample_ids": torch.arange(7) * 3},
        {"start": torch.rand(7, 3, 8, 8)},
        {"normalization": ([0.4, 0.5, 0.6], [0.2, 0.3, 0.4]), "bounds": (-10, 10)},
        {"bounds": None},
        {"validate": False},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_replays_are_the_attack_with_any_argument(exact_model, changes):
    model = network()
    x, y = batch()
    if "targets" in changes:
        y = (changes["targets"].to(DEVICE) + 1) % 5
    changes = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in changes.items()}
    for _ in range(2):
        assert torch.equal(*both(model, x, y, **({"eps": 0.1, "steps": 3} | changes)))
        x = x.flip(0)
    assert len(recordings_of(model)) == 1


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_replays_on_a_real_network(exact_model, dtype, layout):
    model = preact_resnet18(10).to(DEVICE, memory_format=layout).eval()
    x, y = batch(16, size=32)
    x = x.contiguous(memory_format=layout)
    for seed in range(2):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            found = [fastat.pgd(model, x, y, 8 / 255, steps=4, seed=seed, graph=graph) for graph in (True, False)]
        if dtype == torch.float32:
            assert torch.equal(*found)
        else:
            torch.testing.assert_close(*found, rtol=0, atol=16 / 255)
            assert (found[0] == found[1]).float().mean() > 0.9
        assert found[0].stride() == x.stride()
        x = x.flip(0)


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("restarts", [1, 3])
def test_samples_that_are_won_leave_a_replayed_attack(exact_model, keep, restarts):
    model = network().double()  # padded batches are rounded differently, which in float32 can flip a sign
    for seed in range(3):
        x, y = batch(33, seed=seed)
        x = x.double()
        y[: 8 + seed] = model(x).argmax(1)[: 8 + seed]
        found = both(model, x, y, 0.02, steps=7, keep=keep, restarts=restarts, early_stop=True)
        wrong = [model(x_adv).argmax(1) != y for x_adv in found]
        assert torch.equal(*wrong)
        torch.testing.assert_close(*found, rtol=0, atol=1e-10)


@pytest.mark.parametrize("change", [{}, {"noise": 1, "step_size": 0.125}, {"noise": 2, "clip": False}], ids=str)
def test_single_steps(exact_model, change):
    model = network()
    for seed in range(2):
        x, y = batch(seed=seed)
        found = [fastat.fgsm(model, x, y, 0.1, seed=seed, graph=graph, **change) for graph in (True, False)]
        assert torch.equal(*found)


def test_weights_moved_in_place_are_seen(exact_model):
    model = network()
    x, y = batch()
    for autocast in (False, True):
        with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):
            both(model, x, y, 0.1, steps=3)
            before = fastat.pgd(model, x, y, 0.1, steps=3, seed=3, graph=True)
            with torch.no_grad():
                model[-1].weight.neg_()
            after, plain = both(model, x, y, 0.1, steps=3)
            assert not torch.equal(before, after)
            torch.testing.assert_close(after, plain, rtol=0, atol=0.2 if autocast else 0)
    assert len(recordings_of(model)) == 2


def test_weights_that_are_replaced_are_seen(exact_model):
    model = network()
    x, y = batch()
    both(model, x, y, 0.1, steps=2)
    model[-1].weight = nn.Parameter(-model[-1].weight.detach())
    assert torch.equal(*both(model, x, y, 0.1, steps=2))
    model.to(torch.float64)
    assert torch.equal(*both(model, x.double(), y, 0.1, steps=2))


def test_statistics_and_random_numbers_are_those_of_one_attack(exact_model):
    x, y = batch()
    found = []
    for graph in (True, False):
        model = network(dropout=0.5).train()
        torch.manual_seed(1)
        x_adv = [fastat.pgd(model, x, y, 0.1, steps=3, seed=s, graph=graph) for s in range(3)]
        found.append([*x_adv, *(b.clone() for b in model.buffers()), torch.rand(3, device=DEVICE)])
        assert model[-1].weight.grad is None and model[-1].weight.requires_grad
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_a_compiled_model(exact_model):
    model = torch.compile(network())
    x, y = batch()
    for _ in range(2):
        recorded, plain = both(model, x, y, 0.1, steps=3)
        torch.testing.assert_close(recorded, plain, rtol=0, atol=1e-6)


class Waits(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, x):
        z = self.inner(x)
        return z if z.sum().item() > -1e9 else 2 * z


def test_a_model_that_waits_cannot_be_recorded_and_leaves_the_device_usable(exact_model):
    model = Waits()
    x, y = batch()
    with pytest.raises(CaptureError, match="makes the CPU wait for the GPU"):
        fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    found = [fastat.pgd(model, x, y, 0.1, steps=2, seed=0, graph="auto") for _ in range(3)]
    assert torch.equal(found[0], fastat.pgd(model, x, y, 0.1, steps=2, seed=0)) and torch.equal(found[0], found[2])
    torch.rand(3, device=DEVICE)
    assert torch.equal(*both(network(), x, y, 0.1, steps=2))


class Fails(nn.Module):
    """Invalidates a recording, and nothing else."""

    def __init__(self):
        super().__init__()
        self.inner = network(dropout=0.5).train()

    def forward(self, x):
        z = self.inner(x)
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()
        return z


def test_a_recording_that_fails_leaves_everything_usable():
    x, y = batch()
    older = network(dropout=0.5).train()
    fastat.pgd(older, x, y, 0.1, steps=2, seed=0, graph=True)
    model = Fails()
    stream = torch.cuda.current_stream()
    for _ in range(2):
        with pytest.raises(CaptureError, match="recording failed"):
            fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    assert torch.cuda.current_stream() == stream
    found = []
    for seed in (0, 0, 1):
        torch.cuda.manual_seed(seed)
        found.append((fastat.pgd(older, x, y, 0.1, steps=2, seed=0, graph=True), torch.rand(3, device=DEVICE)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], found[2][0]) and not torch.equal(found[0][1], found[2][1])


def test_statistics_are_put_back_where_a_rehearsal_raises():
    model = Waits()
    model.inner.train()
    x, y = batch()
    before = [b.clone() for b in model.buffers()]
    with pytest.raises(CaptureError):
        fastat.pgd(model, x, y, 0.1, steps=20, graph=True)
    assert all(torch.equal(b, old) for b, old in zip(model.buffers(), before, strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_another_device_than_the_current_one(exact_model):
    model = network().to("cuda:1")
    x, y = (t.to("cuda:1") for t in batch())
    for _ in range(2):
        assert torch.equal(*both(model, x, y, 0.1, steps=3))


def test_replays_on_two_streams_wait_for_each_other(exact_model):
    model = network()
    x, y = batch()
    other = x.flip(0)
    expected = [fastat.pgd(model, t, y, 0.1, steps=3, seed=3) for t in (x, other)]
    both(model, x, y, 0.1, steps=3)
    sides = torch.cuda.Stream(), torch.cuda.Stream()
    torch.cuda.synchronize()
    found = []
    for side, t, delay in zip(sides, (x, other), (DELAY, 1), strict=True):
        with torch.cuda.stream(side):
            torch.cuda._sleep(delay)
            found.append(fastat.pgd(model, t, y, 0.1, steps=3, seed=3, graph=True, validate=False))
    torch.cuda.synchronize()
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


def test_a_replay_does_not_wait(exact_model):
    model = network()
    x, y = batch()
    both(model, x, y, 0.1, steps=3)
    seed = torch.tensor(3, device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        fastat.pgd(model, x, y, 0.1, steps=3, seed=seed, graph=True, validate=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_memory_of_a_recording_does_not_grow_with_the_steps():
    x, y = batch(64, size=32)
    used = []
    for steps in (1, 10):
        model = preact_resnet18(10).to(DEVICE).eval()
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        fastat.pgd(model, x, y, 0.1, steps=steps, graph=True)
        gc.collect()
        torch.cuda.empty_cache()
        used.append(torch.cuda.memory_reserved() - before)
        del model
    assert used[1] <= 1.2 * used[0]


def test_recordings_die_with_their_module():
    model = network()
    x, y = batch()
    fastat.pgd(model, x, y, 0.1, steps=2, graph=True)
    before = len(graphs._all_recordings)
    del model
    gc.collect()
    assert len(graphs._all_recordings) == before - 1


def test_inside_a_recording_of_the_user(exact_model):
    model = network()
    x, y = batch()
    seed = torch.tensor(3, device=DEVICE)
    expected = fastat.pgd(model, x, y, 0.1, steps=2, seed=3)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        fastat.pgd(model, x, y, 0.1, steps=2, seed=seed, validate=False)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x_adv = fastat.pgd(model, x, y, 0.1, steps=2, seed=seed, validate=False, graph=True)
    graph.replay()
    assert torch.equal(x_adv, expected)


SMALL = {"epochs": 2, "attack_steps": 3, "train_size": 512, "batch_size": 64, "val_size": 64, "lr": 0.05}
PLAIN = {"precision": "fp32", "channels_last": "off"}


@pytest.mark.parametrize(
    "protocol", ["standard", "pgd-at", "n-fgsm", "free", "trades", "mart", "hr", "bat", "gradalign"]
)
def test_a_recorded_training_is_the_training(tmp_path, exact_model, protocol):
    config = default_config("digits", protocol, **SMALL, **PLAIN)
    networks = [train_configured(config, tmp_path / str(graph), device="cuda", graph=graph) for graph in (True, False)]
    assert not [finding for row in networks[0].history for finding in row["findings"] if finding["monitor"] == "graph"]
    for one, other in zip(*(n.model.state_dict().values() for n in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)  # backward passes of convolutions may use atomics
    assert networks[0].history[-1]["train"]["skipped"] == 0


@pytest.mark.parametrize(
    "changes",
    [{"awp": 0.01}, {"average": "ema", "clip_grad": 1.0}, {"norm": "l2", "eps": 0.5, "momentum": 0.0}, {}],
    ids=lambda changes: ", ".join(changes) or "bf16, channels last",
)
def test_a_recorded_step_learns_and_follows_the_learning_rate(tmp_path, changes):
    run = open_configured(default_config("digits", **SMALL, **changes), tmp_path, None, DEVICE)
    one = next(run.images.train_set.batches(torch.arange(64), 64))
    weights = []
    for _ in range(5):
        take_step(run, one)
        run.state.current.step += 1
        weights.append(torch.cat([p.detach().flatten().clone() for p in run.learner.model.parameters()]))
    assert run.learner.replay.ready and not run.learner.replay.refused
    losses = run.state.current.marks.losses[:5]
    assert bool(losses.isfinite().all()) and len(set(losses.tolist())) == 5
    assert all(not torch.equal(a, b) for a, b in pairwise(weights))


def test_a_bad_recorded_step_is_skipped(tmp_path):
    run = open_configured(default_config("digits", **SMALL), tmp_path, None, DEVICE)
    one = next(run.images.train_set.batches(torch.arange(64), 64))
    for _ in range(3):
        take_step(run, one)
        run.state.current.step += 1
    before = copy.deepcopy(run.learner.model.state_dict())
    take_step(run, one._replace(x=one.x * float("nan")))
    assert run.learner.replay.ready and not run.learner.replay.refused
    for name, value in run.learner.model.state_dict().items():
        if value.is_floating_point():
            assert torch.equal(value, before[name])
    assert run.state.current.marks.losses[:4].isnan().tolist() == [False, False, False, True]


def test_the_small_network_of_the_library(exact_model):
    model = small_cnn(10, 3, 16).to(DEVICE).eval()
    x, y = batch(9, size=16)
    assert torch.equal(*both(model, x, y, 0.1, steps=3))
