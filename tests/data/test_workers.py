"""Processes that read samples: which signals they outlive, and that none outlives its need."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
import torch
from killing import is_alive, signal_as_workers_end, wait_for
from torch.utils.data import Dataset

from fastat.data.workers import read_batches
from fastat.support.interrupt import Terminated, termination_raises


class Numbers(Dataset):
    """Of which one, if any, takes for ever."""

    def __init__(self, endless: int = -1) -> None:
        self.endless = endless

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> int:
        while index == self.endless:
            time.sleep(0.01)
        return index


@pytest.fixture(autouse=True)
def _alone() -> Iterator[None]:
    assert not multiprocessing.active_children()
    yield
    for child in multiprocessing.active_children():
        child.kill()
        child.join()


def signal_workers(number: int) -> list[multiprocessing.process.BaseProcess]:
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        assert worker.pid is not None
        os.kill(worker.pid, number)
    return workers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_workers_outlive_a_signal_as_long_as_they_are_needed(number):
    batches = read_batches(Numbers(), 2, 2, None)
    found = [next(batches)]
    workers = signal_workers(number)
    if number == signal.SIGTERM:
        signal_workers(signal.SIGALRM)  # as later, while the main process is at work
    time.sleep(1)
    assert all(worker.is_alive() for worker in workers)
    found += batches
    assert torch.cat(found).tolist() == list(range(40))
    assert not any(worker.is_alive() for worker in workers)


def test_a_worker_that_never_comes_back_is_ended():
    batches = read_batches(Numbers(endless=5), 2, 2, None)
    next(batches)
    workers = multiprocessing.active_children()
    batches.close()  # torch waits for 5 seconds, then sends SIGTERM
    for worker in workers:
        worker.join(60)
        assert worker.exitcode is not None


def take_one(pipe) -> None:
    batches = read_batches(Numbers(endless=5), 2, 2, None)
    next(batches)
    signal_workers(signal.SIGTERM)
    pipe.send([worker.pid for worker in multiprocessing.active_children()])
    time.sleep(600)


def test_workers_end_with_the_process_that_they_read_for():
    forks = multiprocessing.get_context("fork")
    here, there = forks.Pipe()
    main = forks.Process(target=take_one, args=(there,))
    main.start()
    assert here.poll(60)
    workers = here.recv()
    main.kill()
    main.join()
    wait_for(lambda: not any(is_alive(worker) for worker in workers))


SCRIPT = """
import faulthandler, signal, sys
faulthandler.dump_traceback_later(60, exit=True)
import fastat.data.workers as reading
from test_workers import *
class Loader(reading.DataLoader):
    def __iter__(self):
        found = super().__iter__()
        if sys.argv[1] == "as they start":
            signal.raise_signal(signal.SIGINT)
        return found
signal.signal(signal.SIGINT, signal.default_int_handler)
reading.DataLoader = Loader
batches = read_batches(Numbers(), 2, 2, None)
next(batches)
"""


@pytest.mark.parametrize(("interrupted", "status"), [("never", 0), ("as they start", -signal.SIGINT)])
def test_an_iterator_that_is_not_closed_keeps_no_process(interrupted, status):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, interrupted], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr


def test_an_interrupt_while_the_workers_end_is_not_lost(monkeypatch):
    batches = read_batches(Numbers(), 2, 2, None)
    next(batches)
    signal_as_workers_end(monkeypatch)
    with termination_raises(), pytest.raises(Terminated):
        batches.close()
