"""One process at a time writes to a run's folder; what holds it is named, and nothing holds it on after its end."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from killing import assert_same_run
from own_cases import short
from training_cases import TINY

from fastat.cli import main
from fastat.theory.sweep import sweep
from fastat.training import held, lock, record_of, train_configured
from fastat.training.lock import LOCK, locked

forks = get_context("fork")


def hold(folder: Path, pipe: Connection) -> None:
    with locked(folder):
        pipe.send("held")
        pipe.recv()


@contextmanager
def holder(folder: Path) -> Iterator[BaseProcess]:
    """Another process that holds the folder."""
    here, there = forks.Pipe()
    process = forks.Process(target=hold, args=(folder, there))
    process.start()
    try:
        assert here.recv() == "held"
        yield process
        if process.is_alive():
            here.send("go")
        process.join(60)
    finally:
        process.kill()
        process.join()


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "finished"
    train_configured(TINY, folder, quiet=True)
    return folder


def test_a_second_process_is_refused_and_told_who_has_the_folder(tmp_path):
    with holder(tmp_path / "run") as process:
        owner = f"is in use by process {process.pid} on {socket.gethostname()}: one at a time writes there"
        for run in (train_configured, lambda config, folder: short(folder)):
            with pytest.raises(ValueError, match=owner):
                run(TINY, tmp_path / "run")
        with pytest.raises(SystemExit, match=owner):
            main(["train", "--out", str(tmp_path / "run")])
        assert [file.name for file in (tmp_path / "run").iterdir()] == [LOCK]
    assert not (tmp_path / "run").exists()  # it has put nothing there
    short(tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_killed_process_holds_nothing(tmp_path, finished):
    with holder(tmp_path / "run") as process:
        process.kill()
        process.join()
    assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == process.pid
    train_configured(TINY, tmp_path / "run", quiet=True)
    assert_same_run(finished, tmp_path / "run")
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_stopped_process_holds_on(tmp_path):
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(ValueError, match=f"in use by process {process.pid}"), locked(tmp_path):
            pass
        os.kill(process.pid, signal.SIGCONT)


def test_reading_needs_no_lock(tmp_path, finished):
    with holder(finished):
        main(["evaluate", str(finished), "--eval-size", "10", "--out", str(tmp_path / "evaluation")])
        main(["report", str(finished), "--out", str(tmp_path / "page.html")])


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_errors_and_interrupts_let_go(tmp_path, raised):
    def measure(model):
        raise raised

    with pytest.raises(raised):
        short(tmp_path, measure=measure)
    assert not (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def test_threads_of_one_process(tmp_path):
    said = []

    def other() -> None:
        try:
            short(tmp_path)
        except ValueError as error:
            said.append(str(error))

    with locked(tmp_path) as first, locked(tmp_path / ".." / tmp_path.name) as second:
        assert first and not second  # the thread that holds it may take it again, under any name
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "in use by another thread of this process" in said[0]
    assert short(tmp_path).finished


def test_a_fork_does_not_hold_on(tmp_path):
    read, write = os.pipe()
    with locked(tmp_path):
        child = os.fork()
        if child == 0:  # lives on, while its parent's work is over
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        file = os.stat(tmp_path / LOCK).st_ino
        assert file
    os.close(read)
    with holder(tmp_path):
        pass
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0


def leave(folder: Path) -> None:
    """In a fork of a process that holds it."""
    with pytest.raises(ValueError, match="in use by process"), locked(folder):
        pass


def test_a_fork_is_another_process(tmp_path):
    with locked(tmp_path):
        child = forks.Process(target=leave, args=(tmp_path,))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert (tmp_path / LOCK).exists()


def written_by(folder: Path, **changes) -> Path:
    """The file of a process that was killed."""
    with locked(folder):
        owner = json.loads((folder / LOCK).read_text())
    (folder / LOCK).write_text(json.dumps(owner | changes))
    return folder / LOCK


def test_a_process_of_another_machine(tmp_path):
    file = written_by(tmp_path, host="node7", boot="another", pid=41)
    words = f"in use by process 41 on node7, or was when that ended.*delete {file}"
    with pytest.raises(ValueError, match=words), locked(tmp_path):
        pass
    assert json.loads(file.read_text())["pid"] == 41
    file.unlink()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("changes", [{"host": "an older container"}, {"boot": "before the restart"}])
def test_a_process_of_this_machine_under_another_name(tmp_path, changes):
    written_by(tmp_path, **changes)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3, "pid": 1}', "[" * 4000, '{"pid": 1}'])
def test_a_file_that_says_nothing(tmp_path, content):
    (tmp_path / LOCK).write_text(content)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_links_and_pipes_are_not_followed(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=LOCK), locked(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "precious"
    (tmp_path / LOCK).unlink()
    os.mkfifo(tmp_path / LOCK)
    with pytest.raises(ValueError, match="is not a regular file"), locked(tmp_path):
        pass


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that has none."""

    def refuse(handle, how):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


def test_without_locks_the_owner_decides(tmp_path, without_locks):
    with holder(tmp_path) as process:
        with pytest.raises(ValueError, match=f"in use by process {process.pid} on"), locked(tmp_path):
            pass
        process.kill()
        process.join()
    with locked(tmp_path):
        pass
    written_by(tmp_path, started=1)  # this process's number, of one that is gone
    with locked(tmp_path):
        pass


def test_a_full_disk_keeps_nobody_from_a_finished_run(finished, monkeypatch):
    def full(handle, content, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.os, "pwrite", full)
    with locked(finished), holder(finished.parent) as process:
        assert not (finished / LOCK).read_text()
        with pytest.raises(ValueError, match="in use by a process that has not said which"), locked(finished.parent):
            pass
        assert process.is_alive()


def test_a_folder_that_cannot_be_written_to_is_not_locked(tmp_path, monkeypatch):
    def refuse(*given):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / LOCK))

    with monkeypatch.context() as patched:
        patched.setattr(lock.os, "open", refuse)
        with pytest.raises(PermissionError, match=LOCK), locked(tmp_path):
            pass  # the folder itself can be
        patched.setattr(lock.os, "access", lambda folder, how: False)
        with locked(tmp_path), locked(tmp_path):
            pass


def test_a_folder_that_goes_away_meanwhile(tmp_path):
    with locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / LOCK).unlink()
        (tmp_path / "a" / "b").rmdir()
    assert not (tmp_path / "a").exists()


def test_a_folder_in_which_no_file_can_be_made(tmp_path, monkeypatch):
    def refuse(*given):
        assert len(tries) < 1000
        tries.append(given)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / LOCK))  # as in /proc

    tries: list[object] = []
    monkeypatch.setattr(lock.os, "open", refuse)
    with pytest.raises(FileNotFoundError, match=LOCK), locked(tmp_path):
        pass


@pytest.mark.parametrize(
    "moment", ["fastat.training.configured.data.load", "fastat.cli.train.evaluate_network", "fastat.cli.train.show"]
)
def test_a_scheduler_s_signal_lets_go_at_any_moment(tmp_path, monkeypatch, moment):
    command = [
        "train", "--model", "mlp", "--width", "8", "--epochs", "1", "--train-size", "32", "--val-size", "0",
        "--attack-steps", "1", "--eval-size", "10", "--device", "cpu", "--out", str(tmp_path / "run"),
    ]  # fmt: skip
    if moment.endswith("show"):
        main(command)
    ends = f"import os, signal, sys; from unittest.mock import patch\nwith patch({moment!r}, "
    ends += "lambda *given, **named: os.kill(os.getpid(), signal.SIGTERM)):\n"
    ends += "    import fastat.cli; fastat.cli.main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", ends, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 143 and "the same command continues" in done.stderr
    assert not (tmp_path / "run" / LOCK).exists()


def say_and_wait(pipe: Connection) -> None:
    pipe.send("started")
    while True:
        signal.pause()


def test_forks_are_ended_by_the_signal(tmp_path):
    with held(tmp_path, record_of(TINY), None, torch.device("cpu")):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        here, there = forks.Pipe()
        child = forks.Process(target=say_and_wait, args=(there,))
        child.start()
        assert here.recv() == "started"
        child.terminate()
        child.join()
    assert child.exitcode == -signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def train_in_a_process(folder: Path) -> subprocess.Popen:
    """On one thread: how many there are decides how sums are rounded."""
    command = (
        "import sys; from fastat.training import train_configured; from training_cases import TINY\n"
        "try: train_configured(TINY, sys.argv[1], quiet=True)\n"
        "except ValueError as error: assert 'in use by' in str(error), error\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", command, str(folder)], env=environment)


def test_taking_turns(tmp_path):
    """Two processes that start at once: each trains or is refused, perhaps before the other has said who it is, and
    nothing is mixed."""
    for name, processes in (("alone", 1), ("both", 2)):
        started = [train_in_a_process(tmp_path / name) for _ in range(processes)]
        assert [process.wait(120) for process in started] == [0] * processes
    assert_same_run(tmp_path / "alone", tmp_path / "both")


def test_a_sweep_is_one_process_s(tmp_path):
    with holder(tmp_path / "cells") as process, pytest.raises(ValueError, match=f"in use by process {process.pid}"):
        sweep(dict, [], folder=tmp_path / "cells")
    with holder(tmp_path / "cgro") as process, pytest.raises(SystemExit, match=f"in use by process {process.pid}"):
        main(["theory", "cgro", "--out", str(tmp_path / "cgro")])
    assert not list(tmp_path.rglob("settings.json"))
