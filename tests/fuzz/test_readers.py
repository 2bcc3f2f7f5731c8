"""The fuzzer of readers, on readers that end their process: what it says of them, and that it lives on."""

import os
import signal
import time
from pathlib import Path

import pytest

from . import readers
from .seeds import Reader

SEEDS = [b"abc"]


def ends(number: int, how):
    """A reader that does so on its input of that number."""
    read = iter(range(10**6))
    return Reader("wug", lambda _: SEEDS, lambda _: how() if next(read) == number else None)


def in_a_process(monkeypatch, place: Path, reader: Reader):
    monkeypatch.setitem(readers.READERS, "planted", reader)
    monkeypatch.setattr(readers, "_AT_ONCE", 5)
    return readers._in_a_process("planted", SEEDS, place, 0, 10)


@pytest.mark.parametrize("number", [0, 3, 4])
def test_the_input_that_ended_the_process_is_named(monkeypatch, tmp_path, number):
    done, found = in_a_process(monkeypatch, tmp_path, ends(number, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert done == [(10 + n, "read") for n in range(number)]
    assert found == [(10 + number, "the process ended: SIGKILL")]


def test_an_error_of_the_child_stays_there(monkeypatch, tmp_path, capfd):
    def fail(*_):
        raise MemoryError("planted")

    monkeypatch.setattr(readers, "input_of", fail)
    parent = os.getpid()
    _, found = in_a_process(monkeypatch, tmp_path, ends(0, lambda: None))
    assert os.getpid() == parent and found == [(10, "the process ended: exit 1")]
    assert "planted" in capfd.readouterr().err


def test_a_reader_that_waits_is_ended(monkeypatch, tmp_path):
    monkeypatch.setattr(readers, "_WAITING", 0.5)
    _, found = in_a_process(monkeypatch, tmp_path, ends(1, lambda: time.sleep(10**6)))
    assert found == [(11, "the process ended: SIGALRM")]


def test_a_word_of_the_name_does_not_name_the_file(tmp_path):
    def refuse(file: Path) -> None:
        raise ValueError("a wug must be one")

    assert readers.read_one(Reader("wug.pt", lambda _: SEEDS, refuse), tmp_path, b"", show=False).startswith("not one")
