"""``fastat.train`` in two processes: DistributedDataParallel where it can be, and the weights of one process alone.

In float64, where the two agree to many digits if they do the same work.
"""

import gc
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from own_cases import Drawn, network, samples
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastat
from fastat.support.files import load_checkpoint
from fastat.training.exchange import Exchange


class Double(nn.Module):
    """Computes in float64; without dropout, whose draws are each process's own."""

    def __init__(self, unused: bool = False) -> None:
        super().__init__()
        self.net = nn.Sequential(*(layer for layer in network() if not isinstance(layer, nn.Dropout))).double()
        self.net[2] = nn.LayerNorm(16, dtype=torch.float64)
        self.extra = nn.Linear(2, 2) if unused else nn.Identity()

    def forward(self, x):
        return self.net(x.double())


class Experts(Double):
    """Each process uses one of two layers, drawn anew in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4).double() for _ in range(2))

    def forward(self, x):
        rank = dist.get_rank() if dist.is_initialized() else 0
        drawn = (int(self.net[1].weight.detach().sum() * 1e6) + rank) % 2 if self.training else 0
        return self.experts[drawn](super().forward(x))


class Drops(Double):
    """After two steps, of two passes of the attack and one of the loss, a layer is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(4, 4).double()
        self.passes = 0

    def forward(self, x):
        self.passes += self.training
        return super().forward(x) if self.passes > 6 else self.last(super().forward(x))


RUNS = {
    "trades": (fastat.protocol("trades", eps=0.5, norm="l2", steps=2), {}),
    "hr": (fastat.protocol("hr", eps=0.5, norm="l2", steps=2, alpha=0.1, r=0.1), {"optimizer": "adam", "lr": 0.01}),
    "bat": (fastat.protocol("bat", eps=0.5, norm="l2", steps=2), {"average": "ema"}),
    "awp": (fastat.protocol("pgd-at", eps=0.5, norm="l2", steps=1, awp=0.01), {"clip_grad": 0.5}),
    "free": (fastat.protocol("free", eps=0.5, norm="l2", replays=2), {"optimizer": torch.optim.Adagrad}),
    "gradalign": (fastat.protocol("gradalign", eps=0.1, grad_align=0.2), {}),
    "unused": (fastat.protocol("pgd-at", eps=0.5, norm="l2", steps=2), {}),
    "drawn": (fastat.protocol("pgd-at", eps=0.5, norm="l2", steps=2), {"workers": 0}),
}


def train_all(folder: Path, group=None) -> None:
    for name, (protocol, changes) in RUNS.items():
        model = Double(unused=name == "unused")
        if group is not None and group.rank() == 1:
            for p in model.parameters():
                nn.init.constant_(p, 3.0)  # those of the first process count
        fastat.train(
            model, Drawn() if name == "drawn" else samples(), protocol, out=folder / name, epochs=2, batch_size=32,
            val=15, quiet=True, device="cpu", group=group, **changes,
        )  # fmt: skip


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", timedelta(minutes=5), rank=rank, world_size=2)
    ways, around = [], Exchange.around

    def watched(self, forward):
        found = around(self, forward)
        ways.append((isinstance(found, DistributedDataParallel), self.refused))
        return found

    Exchange.around = watched
    try:
        fastat.train(Double(), samples(), RUNS["trades"][0], out=Path(folder) / "none", device="cpu")
    except ValueError as error:
        torch.save(str(error), Path(folder) / f"forgotten-{rank}.pt")
    train_all(Path(folder), dist.group.WORLD)
    seen = len(ways)
    uneven: dict[str, object] = {}
    for name, model in (("experts", Experts()), ("drops", Drops())):
        fastat.train(
            model, samples(), RUNS["unused"][0], out=Path(folder) / name, epochs=2, batch_size=32, val=15, quiet=True,
            device="cpu", group=dist.group.WORLD, select="last", find_unused_parameters=name == "drops",
        )  # fmt: skip
        uneven[name] = model.state_dict()
    try:
        fastat.train(
            Drops(), samples(), RUNS["unused"][0], out=Path(folder) / "unsaid", epochs=2, batch_size=32, val=15,
            quiet=True, device="cpu", group=dist.group.WORLD,
        )  # fmt: skip
    except RuntimeError as error:
        uneven["said"] = str(error)
    torch.save(uneven, Path(folder) / f"uneven-{rank}.pt")
    del ways[seen:]
    gc.collect()
    dist.destroy_process_group()
    torch.save(ways, Path(folder) / f"ways-{rank}.pt")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of the runs of two processes, and of one."""
    two, one = tmp_path_factory.mktemp("two"), tmp_path_factory.mktemp("one")
    mp.spawn(worker, (str(two),), nprocs=2)
    train_all(one)
    return two, one


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_like_one(name, folders):
    two, one = (load_checkpoint(folder / name / "checkpoint.pt") for folder in folders)
    for kind in ("model", "average"):
        for key, weight in (one[kind] or {}).items():
            torch.testing.assert_close(two[kind][key], weight, rtol=0, atol=1e-9)
    assert [row["val"] for row in two["history"]] == [row["val"] for row in one["history"]]


def test_gradients_go_through_ddp_where_they_can(folders):
    for rank in range(2):
        ways = torch.load(folders[0] / f"ways-{rank}.pt", weights_only=True)
        per_run = [ways[start : start + 6] for start in range(0, len(ways), 6)]
        assert len(per_run) == len(RUNS)
        for name, steps in zip(RUNS, per_run, strict=True):
            refused = name == "unused"
            assert [wrapped for wrapped, _ in steps] == [False] + [not refused] * 5
            why = "no gradient reaches extra.weight, extra.bias" if refused else ""
            assert {reason for _, reason in steps[1:]} == {why} != {steps[0][1]}


def test_parameters_that_some_steps_leave_out(folders):
    """In some processes, or in all of them and not in the first step: which has to be said."""
    one, other = (torch.load(folders[0] / f"uneven-{rank}.pt", weights_only=True) for rank in range(2))
    for name in ("experts", "drops"):
        assert all(one[name][key].equal(other[name][key]) for key in one[name])
    assert "pass find_unused_parameters=True" in one["said"] and one["said"] == other["said"]


def test_processes_that_nobody_named_are_refused(folders):
    said = torch.load(folders[0] / "forgotten-0.pt", weights_only=True)
    assert "group must name the processes that train together: 2 have joined" in said
