"""Attacks in threads, in forks of a process that has used them, and in processes of their own: the same numbers."""

import threading
from multiprocessing import get_context
from multiprocessing.connection import Connection

import pytest
import torch
from torch import Tensor, nn

import fastat

THREADS = 8


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    return model.eval()


def batch(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(32, 3, 8, 8, generator=generator), torch.randint(5, (32,), generator=generator)


def attacked(model: nn.Module, seed: int, norm: str = "linf") -> Tensor:
    x, y = batch(seed)
    eps = {"linf": 0.1, "l2": 1.0, "l1": 6.0}[norm]
    return fastat.pgd(model, x, y, eps, steps=5, restarts=2, norm=norm, seed=seed)


def in_threads(work, number: int = THREADS) -> None:
    """All start at once; what one raises is raised."""
    ready, raised = threading.Barrier(number), []

    def one(index: int) -> None:
        try:
            ready.wait()
            work(index)
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # rounding must not depend on how many there are
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shared", [True, False], ids=["one model", "a model each"])
def test_threads_find_what_one_finds_alone(one_thread, norm, shared):
    alone = [attacked(network(), seed, norm) for seed in range(THREADS)]
    models = [network()] * THREADS if shared else [network() for _ in range(THREADS)]
    found: dict[int, list[Tensor]] = {seed: [] for seed in range(THREADS)}

    def work(seed: int) -> None:
        found[seed] = [attacked(models[seed], seed, norm) for _ in range(3)]

    in_threads(work)
    for seed in range(THREADS):
        assert all(one.equal(alone[seed]) for one in found[seed])
    for model in models:
        assert not model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_protocol_in_threads_with_a_model_each(one_thread):
    protocol = fastat.protocol("trades", eps=0.1, steps=3)

    def gradients(model: nn.Module, seed: int) -> list[Tensor]:
        protocol(model, *batch(seed), seed=seed).backward()
        return [p.grad for p in model.parameters()]

    alone = [gradients(network(), seed) for seed in range(THREADS)]
    models = [network() for _ in range(THREADS)]  # made here: torch's generator, which draws them, is one for all
    found: dict[int, list[Tensor]] = {}
    in_threads(lambda seed: found.update({seed: gradients(models[seed], seed)}))
    for seed in range(THREADS):
        for one, other in zip(alone[seed], found[seed], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def send(pipe: Connection, model: nn.Module, seed: int) -> None:
    torch.set_num_threads(1)  # those of the parent are gone in a fork
    pipe.send(attacked(model, seed).numpy())


def of_a_child(way: str, model: nn.Module, seed: int) -> Tensor:
    context = get_context(way)
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=send, args=(there, model, seed))
    child.start()
    there.close()
    try:
        assert here.poll(120), "the child does not answer"
        return torch.from_numpy(here.recv())
    finally:
        child.kill()
        child.join()


@pytest.mark.parametrize("way", ["fork", "spawn"])
def test_a_child_of_a_process_that_has_attacked(one_thread, way):
    model = network()
    expected = attacked(model, 3)
    assert of_a_child(way, model, 3).equal(expected)
    assert attacked(model, 3).equal(expected)
