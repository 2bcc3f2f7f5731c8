"""Protocols by two processes: the weights of one process that has the whole batch, however the network is wrapped."""

import gc
import os
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, TensorDataset

import fastat
from fastat.protocols import Mean

SAMPLES, STEPS = 12, 2
PROTOCOLS = {
    "pgd-at": fastat.protocol("pgd-at", eps=0.1, steps=3),
    "rs-fgsm": fastat.protocol("rs-fgsm", eps=0.1),
    "trades": fastat.protocol("trades", eps=0.1, steps=2),
    "mart": fastat.protocol("mart", eps=0.1, steps=2),
    "gradalign": fastat.protocol("gradalign", eps=0.1),
    "hr": fastat.protocol("hr", eps=0.1, steps=2),
    "bat": fastat.protocol("bat", eps=0.1, steps=2, loss="trades"),
    "awp": fastat.protocol("trades", eps=0.1, steps=2, awp=0.05),
    "free": fastat.protocol("free", eps=0.1),
}


class Shifted(nn.Module):
    """Normalizes in front of a network."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner((x - 0.5) / 0.3)


def sharded(net):
    for layer in net:
        if list(layer.parameters()):
            fully_shard(layer)
    return fully_shard(net)


WRAPPERS = {
    "ddp": DistributedDataParallel,
    "ddp, static graph": partial(DistributedDataParallel, static_graph=True),
    "ddp in a module": lambda net: Shifted(DistributedDataParallel(net)),
    "ddp, static graph, in a module": lambda net: Shifted(DistributedDataParallel(net, static_graph=True)),
    "ddp around a module": lambda net: DistributedDataParallel(Shifted(net)),
    "ddp, compiled": lambda net: torch.compile(DistributedDataParallel(net), backend="eager"),
    "fsdp2": sharded,
}
CASES = [
    (kind, name, normalized)
    for kind in WRAPPERS
    for name in PROTOCOLS
    for normalized in (False, True)
    if (kind, name) != ("fsdp2", "gradalign")  # refused
    and (kind != "ddp, compiled" or (name in ("trades", "hr") and not normalized))  # takes a while
    and (not normalized or (kind in ("ddp", "fsdp2") and name in ("rs-fgsm", "trades", "awp")))
]
FRAMEWORKS = ("accelerate", "lightning")
ALONE = []
"""In a process, the group that it has with nobody: what is compared with shares no weights."""


def network(normalized=False):
    """In float64, and batch norm in eval mode: a batch is not seen to be cut."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4) if normalized else nn.Identity()
    layers = [nn.Conv2d(1, 4, 3, padding=1), norm, nn.Tanh(), nn.Flatten(), nn.Linear(64, 12), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(12, 3)).double()


def data():
    g = torch.Generator().manual_seed(1)
    x = torch.rand(SAMPLES, 1, 4, 4, generator=g, dtype=torch.float64)
    return x, torch.randint(3, (SAMPLES,), generator=g), torch.arange(SAMPLES)


def own(rank):
    return slice(0, 7) if rank == 0 else slice(7, None)


def half(rank):
    """Parts of one size: the mean over processes is then the mean over samples."""
    return slice(rank * SAMPLES // 2, (rank + 1) * SAMPLES // 2)


def group_for(protocol):
    return dist.group.WORLD if protocol.objective != Mean() else None


def trained(model, net, protocol, batch, group=None):
    """Gradients of the last step and weights of ``net`` after some steps of ``model``, as they are on one process."""
    x, y, ids = batch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    delta = torch.zeros_like(x) if protocol == PROTOCOLS["free"] else None
    for step in range(STEPS):
        with protocol.stepping(model, x, y, seed=step, sample_ids=ids, group=group, delta=delta) as found:
            optimizer.zero_grad()
            found.loss.backward()
            optimizer.step()
    return torch.cat([whole(t).flatten() for p in net.parameters() for t in (p.grad, p)]).detach()


def whole(t):
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def wrapped_networks(rank, found):
    batch = tuple(t[half(rank)] for t in data())
    for normalized in (False, True):
        for kind, wrap in WRAPPERS.items():
            for name, protocol in PROTOCOLS.items():
                if (kind, name, normalized) not in CASES:
                    continue
                nets = [network(normalized).train(not normalized) for _ in range(2)]
                model = wrap(nets[0]).train(not normalized)
                alone = Shifted(nets[1]) if "a module" in kind else nets[1]
                expected = trained(alone, nets[1], protocol, data(), ALONE[0])
                weights = trained(model, nets[0], protocol, batch, group_for(protocol))
                found[kind, name, normalized] = float((weights - expected).abs().max())
                del model
                gc.collect()


def ragged_parts(rank, found):
    """HR looks at all samples, wherever they are."""
    for name in ("hr", "bat"):
        protocol, nets = PROTOCOLS[name], [network() for _ in range(2)]
        expected = trained(nets[1], nets[1], protocol, data(), ALONE[0])
        model = DistributedDataParallel(nets[0])
        weights = trained(model, nets[0], protocol, tuple(t[own(rank)] for t in data()), dist.group.WORLD)
        found["ragged", name] = float((weights - expected).abs().max())
        del model
        gc.collect()


class Collectives(TorchDispatchMode):
    """Counts what the processes exchange."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "c10d" in str(func):
            name = str(func).split(".")[1]
            self.seen[name] = self.seen.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def gathering(rank, found):
    """What FSDP2 exchanges for a step, its parameters gathered in every pass or kept."""
    x, y, ids = (t[half(rank)] for t in data())
    for name in ("trades", "awp"):
        weights = []
        for keep in (False, True):
            net = network()
            model = sharded(net)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(2):
                counting, keeping = Collectives(), fastat.keep_gathered(model) if keep else nullcontext()
                stepping = PROTOCOLS[name].stepping(model, x, y, seed=step, sample_ids=ids)
                with counting, keeping, stepping as outcome:
                    outcome.loss.backward()
                optimizer.step()
                optimizer.zero_grad()
            weights.append(torch.cat([whole(p).detach().flatten() for p in net.parameters()]))
            found["gathers", name, keep] = counting.seen.get("_allgather_base_", 0)
            found["reduces", name, keep] = counting.seen.get("_reduce_scatter_base_", 0)
        found["gathered", name] = float((weights[0] - weights[1]).abs().max())
    try:
        PROTOCOLS["gradalign"](model, x, y)
    except ValueError as error:
        found["fsdp2", "gradalign"] = str(error)


def exchanges_of_ddp(rank, found):
    """In one step, with batch norm in train mode, whose buffers the wrapper broadcasts; and that all agree after it."""
    x, y, ids = (t[half(rank)] for t in data())
    for name in ("pgd-at", "trades", "gradalign"):
        model = DistributedDataParallel(network(normalized=True).train())
        for step in range(3):  # the second one arranges the gradients anew, by an exchange of its own
            with Collectives() as counting:
                PROTOCOLS[name](model, x, y, seed=step, sample_ids=ids).backward()
        flat = torch.cat([p.grad.flatten() for p in model.parameters()])
        found["train mode", name] = difference(flat)
        with Collectives() as of_one_pass:
            model(x)
        found["broadcasts", name] = counting.seen["broadcast_"] - of_one_pass.seen["broadcast_"]
        del model
        gc.collect()


def difference(t):
    both = [torch.empty_like(t) for _ in range(2)]
    dist.all_gather(both, t.contiguous())
    return float((both[0] - both[1]).abs().max())


class Twice(nn.Module):
    """Has its network under two names."""

    def __init__(self, inner):
        super().__init__()
        self.first = inner
        self.second = inner

    def forward(self, x):
        return self.second(x)


def own_attack(model, x, y):
    leaf = x.clone().requires_grad_()
    gradient = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), y), leaf)[0]
    return (x + 0.1 * gradient.sign()).clamp(0, 1)


def static_graphs(rank, found):
    """An attack of one's own, a wrapper of two names, and wrappers out of sight."""
    x, y, _ = batch = tuple(t[half(rank)] for t in data())
    own = fastat.Protocol(own_attack)
    for name, protocol, wrap in (
        ("own attack", own, lambda ddp: ddp),
        ("two names", PROTOCOLS["pgd-at"], Twice),
    ):
        nets = [network() for _ in range(2)]
        model = wrap(DistributedDataParallel(nets[0], static_graph=True))
        expected = trained(nets[1], nets[1], protocol, data(), ALONE[0])
        found["static", name] = float((trained(model, nets[0], protocol, batch) - expected).abs().max())
        del model
        gc.collect()
    ddp = DistributedDataParallel(network(), static_graph=True)
    for name, model in (("function", called_by(ddp)), ("list", KeepsInAList(ddp))):
        try:
            PROTOCOLS["pgd-at"](model, x, y)
        except ValueError as error:
            found["static", name] = str(error)
    del model, ddp
    gc.collect()


def called_by(model):
    return lambda x: model(x)


class KeepsInAList(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.kept = [inner]

    def forward(self, x):
        return self.kept[0](x)


def awp_that_cannot_be(rank, found):
    x, y, _ = (t[half(rank)] for t in data())
    model = sharded(network())
    model.set_requires_gradient_sync(False)
    for name, one in (("no group", network()), ("no sync", model)):
        try:
            with PROTOCOLS["awp"].stepping(one, x, y):
                pass
        except ValueError as error:
            found["awp", name] = str(error)


def steps_while_gathered(rank, found):
    """The optimizer moves the shards while the gathered weights are kept."""
    x, y, ids = (t[half(rank)] for t in data())
    weights = []
    for keep in (False, True):
        net = network()
        model = sharded(net)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with fastat.keep_gathered(model) if keep else nullcontext():
            for step in range(3):
                PROTOCOLS["trades"](model, x, y, seed=step, sample_ids=ids).backward()
                optimizer.step()
                optimizer.zero_grad()
        weights.append(torch.cat([whole(p).detach().flatten() for p in net.parameters()]))
    found["steps while gathered"] = float((weights[0] - weights[1]).abs().max())


def default_noise(rank, found):
    """Two processes that do the same but for their rank."""
    x, y, _ = (t[:4] for t in data())
    torch.manual_seed(0)
    found["noise"] = difference(PROTOCOLS["rs-fgsm"].attack(network(), x, y))


def with_accelerate(rank, found):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    for name in ("trades", "hr", "gradalign", "awp"):
        protocol, nets = PROTOCOLS[name], [network() for _ in range(2)]
        model = accelerator.prepare(nets[0])
        optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        x, y, ids = (t[half(rank)] for t in data())
        for step in range(STEPS):
            stepping = protocol.stepping(model, x, y, seed=step, sample_ids=ids, group=group_for(protocol))
            with accelerator.accumulate(model), stepping as outcome:
                optimizer.zero_grad()
                accelerator.backward(outcome.loss)
                optimizer.step()
        weights = torch.cat([t.flatten() for p in nets[0].parameters() for t in (p.grad, p)]).detach()
        expected = trained(nets[1], nets[1], protocol, data(), ALONE[0])
        found["accelerate", name] = float((weights - expected).abs().max())
        del model
        gc.collect()


def with_lightning(rank, found):
    import lightning
    from lightning.pytorch.plugins.environments import TorchElasticEnvironment
    from lightning.pytorch.strategies import DDPStrategy

    class Module(lightning.LightningModule):
        def __init__(self, net, protocol):
            super().__init__()
            self.net, self.protocol = net, protocol
            self.automatic_optimization = not protocol.couples

        def training_step(self, batch, number):
            x, y, ids = batch
            stepping = self.protocol.stepping(self.net, x, y, seed=number, sample_ids=ids, group=dist.group.WORLD)
            with stepping as outcome:
                if self.automatic_optimization:
                    return outcome.loss
                self.optimizers().zero_grad()
                self.manual_backward(outcome.loss)
                self.optimizers().step()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    os.environ |= {"TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0"}
    parts = TensorDataset(*(torch.cat([t[half(rank)]] * STEPS) for t in data()))
    for name in ("trades", "hr", "gradalign", "awp"):
        protocol, nets = PROTOCOLS[name], [network() for _ in range(2)]
        trainer = lightning.Trainer(
            accelerator="cpu", devices=2, max_epochs=1, precision="64-true",
            strategy=DDPStrategy(process_group_backend="gloo", cluster_environment=TorchElasticEnvironment()),
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            use_distributed_sampler=False,
        )  # fmt: skip
        trainer.fit(Module(nets[0], protocol), DataLoader(parts, batch_size=SAMPLES // 2))
        weights, expected = (
            torch.cat([p.detach().flatten() for p in net.parameters()])
            for net in (nets[0], trained_net(nets[1], protocol))
        )
        found["lightning", name] = float((weights - expected).abs().max())


def trained_net(net, protocol):
    trained(net, net, protocol, data(), ALONE[0])
    return net


def worker(rank, folder):
    torch.set_num_threads(1)
    torch._dynamo.config.recompile_limit = 64
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}  # frameworks ask for it; nobody listens there
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", meeting, timedelta(minutes=5), rank=rank, world_size=2)
    ALONE.append(dist.new_subgroups(group_size=1)[0])
    found = {}
    parts = (wrapped_networks, ragged_parts, gathering, exchanges_of_ddp, static_graphs, awp_that_cannot_be)
    for part in (*parts, steps_while_gathered, default_noise):
        part(rank, found)
    for part, package in ((with_accelerate, "accelerate"), (with_lightning, "lightning")):
        if find_spec(package) is not None:
            part(rank, found)
    gc.collect()  # a DistributedDataParallel that outlives its group can abort the process
    dist.destroy_process_group()
    torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both processes saw: the larger number of the two, NaN if one is that."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(worker, (str(folder),), nprocs=2)
    ours, theirs = (torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(2))
    return {key: value if value != value else max(theirs[key], value) for key, value in ours.items()}


@pytest.mark.parametrize(("kind", "name", "normalized"), CASES)
def test_two_processes_do_what_one_does(found, kind, name, normalized):
    assert found[kind, name, normalized] < 1e-12


def test_what_fsdp2_cannot_do_is_refused(found):
    assert "grad_align needs a second derivative, which FSDP2 does not have" in found["fsdp2", "gradalign"]


@pytest.mark.parametrize("name", ["own attack", "two names"])
def test_static_graphs(found, name):
    assert found["static", name] < 1e-12


@pytest.mark.parametrize("name", ["function", "list"])
def test_a_static_graph_out_of_sight_is_refused(found, name):
    assert "static_graph=True is called by a function or kept in a list" in found["static", name]


def test_awp_that_would_differ_is_refused(found):
    assert "AWP needs group=" in found["awp", "no group"]
    assert "AWP on FSDP2 needs the gradients that are exchanged in every pass" in found["awp", "no sync"]


def test_steps_while_parameters_are_kept_gathered(found):
    assert found["steps while gathered"] < 1e-12


@pytest.mark.parametrize("name", ["hr", "bat"])
def test_parts_of_different_sizes(found, name):
    assert found["ragged", name] < 1e-12


@pytest.mark.parametrize("name", ["trades", "hr", "gradalign", "awp"])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_frameworks(found, framework, name):
    if find_spec(framework) is None:
        pytest.skip(f"needs {framework}")
    assert found[framework, name] < 1e-12


@pytest.mark.parametrize("name", ["trades", "awp"])
def test_parameters_of_fsdp2_are_gathered_once(found, name):
    layers, times, backward = 3, *((1, 1) if name == "trades" else (3, 2))  # AWP looks at the shards, and moves them
    assert found["gathers", name, True] == layers * times < found["gathers", name, False] / 3
    assert found["reduces", name, True] == found["reduces", name, False] == layers * backward
    assert found["gathered", name] < 1e-12


@pytest.mark.parametrize("name", ["pgd-at", "trades", "gradalign"])
def test_one_pass_goes_through_the_wrapper(found, name):
    assert found["train mode", name] == 0
    assert found["broadcasts", name] == 0  # beyond those of one pass


def test_processes_draw_noise_of_their_own(found):
    assert found["noise"] > 0.01
