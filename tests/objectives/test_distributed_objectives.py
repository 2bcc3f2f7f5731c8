"""Objectives over a batch that two processes share: the loss and the gradients of one process that has all of it."""

import gc
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastat
from fastat.support.distributed import gathered

SIZES = [(4, 4), (5, 2), (7, 0)]
"""How the batch is split: also raggedly, and with nothing for the second process."""


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def data(n):
    g = torch.Generator().manual_seed(1)
    return torch.randn(n, 6, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


def hr(order):
    def loss(model, x, y, group):
        return fastat.holistic_cross_entropy(model(x), y, 0.1, 0.2, order, group=group)

    return loss


def hr_of_losses(model, x, y, group):
    return fastat.holistic_loss(F.cross_entropy(model(x), y, reduction="none"), 0.1, 0.2, group=group)


def bat(positives):
    def loss(model, x, y, group):
        logits = model(x)
        return fastat.benign_loss(logits, logits.tanh(), y, 1.0, 0.5, 0.3, positives, group=group)

    return loss


LOSSES = {
    "hd": hr("hd"),
    "hr": hr("hr"),
    "hd of losses": hr_of_losses,
    "bat outside": bat("outside"),
    "bat inside": bat("inside"),
}


def loss_and_gradients(loss_of, x, y):
    """In a function of its own, which lets its DistributedDataParallel go."""
    model = DistributedDataParallel(network())
    loss = loss_of(model, x, y, dist.group.WORLD)
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters()]


def worker(rank, folder):
    """Every loss on this process's part of each batch, and the gradients after DistributedDataParallel's averaging."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for sizes in SIZES:
        x, y = data(sum(sizes))
        part = slice(0, sizes[0]) if rank == 0 else slice(sizes[0], None)
        found = {name: loss_and_gradients(loss_of, x[part], y[part]) for name, loss_of in LOSSES.items()}
        torch.save(found, f"{folder}/{sizes[0]}-{rank}.pt")
    with pytest.raises(ValueError, match="no process of the group has a sample"):
        gathered(torch.zeros(0), dist.group.WORLD)
    Path(folder, f"nothing-{rank}").touch()
    # The first DistributedDataParallel is in a circle. Where one goes after its group, torch 2.10 can hang; a process
    # that ended with one has aborted once.
    gc.collect()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """The folder of what two processes found."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(worker, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("sizes", SIZES)
def test_two_processes_are_as_one(by_two, sizes):
    x, y = data(sum(sizes))
    for rank in (0, 1):
        found = torch.load(by_two / f"{sizes[0]}-{rank}.pt")
        for name, loss_of in LOSSES.items():
            model = network()
            loss = loss_of(model, x, y, None)
            loss.backward()
            shared, grads = found[name]
            torch.testing.assert_close(
                shared, loss.detach(), rtol=1e-12, atol=0, msg=lambda m, name=name: f"{name}: {m}"
            )
            for grad, p in zip(grads, model.parameters(), strict=True):
                torch.testing.assert_close(grad, p.grad, rtol=1e-9, atol=1e-13, msg=lambda m, name=name: f"{name}: {m}")


def test_nothing_to_gather_is_an_error(by_two):
    assert all((by_two / f"nothing-{rank}").exists() for rank in (0, 1))
