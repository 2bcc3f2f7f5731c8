"""``fastat train`` killed at random moments, on a disk that is full, in places of odd names: it goes on bit for bit."""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killing import assert_same_run
from training_cases import TINY

from fastat.cli import main
from fastat.support import files
from fastat.support.files import load_checkpoint
from fastat.training import load_network, train_configured
from fastat.training.lock import LOCK

TRAIN = [
    "train", "n-fgsm", "--model", "mlp", "--width", "32", "--epochs", "6", "--train-size", "640", "--batch-size", "32",
    "--val-size", "20", "--eval-size", "20", "--average", "ema", "--checkpoint-every", "0.05", "--device", "cpu",
]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def start(folder: Path, *more: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "fastat", *TRAIN, *more, "--out", str(folder)]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    """Some of the moments are before the first step, within writes, or while the network is measured."""
    began = time.monotonic()
    assert start(tmp_path / "whole").wait(300) == 0
    seconds = time.monotonic() - began
    moments = random.Random(0)
    begun = 0
    for _ in range(4):
        process = start(tmp_path / "killed")
        time.sleep(moments.uniform(0.3, 1.2) * seconds)
        process.kill()
        process.communicate()
        begun += (tmp_path / "killed" / "checkpoint.pt").exists()
    assert begun > 0
    process = start(tmp_path / "killed")
    assert process.communicate(timeout=300)[1] == "" and process.returncode == 0
    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    one, other = (load_network(tmp_path / name, "cpu") for name in ("whole", "killed"))
    assert one.epoch == other.epoch
    weights = other.model.state_dict()
    assert all(weight.equal(weights[name]) for name, weight in one.model.state_dict().items())
    assert not list((tmp_path / "killed").glob(".*"))  # neither a lock nor a file half written


@pytest.mark.slow
def test_what_a_scheduler_ends_is_saved(tmp_path):
    """A run too long to end by itself: the very step is saved, and the same command goes on from it."""
    process = start(tmp_path / "run", "--epochs", "4000")
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert "the same command continues" in process.communicate(timeout=120)[1] and process.returncode == 143
    saved = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    again = start(tmp_path / "run", "--epochs", "4000")
    said = next(line for line in again.stdout if "continues after" in line)
    again.kill()
    again.communicate()
    assert f"continues after {20 * saved['epoch'] + saved['step']:,} of 80,000 steps" in said


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train_configured(TINY, folder, quiet=True)
    return folder


class Full:
    """A disk that is full from the write of this number on, counted from 0: nothing is synced any more."""

    def __init__(self, number: int) -> None:
        self.left = number

    def fsync(self, handle: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("number", [0, 1, 2, 3, 5, 8, 9, 12, 13, 17, 22])
def test_a_disk_that_gets_full(tmp_path, monkeypatch, whole, number):
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", Full(number).fsync)
        with pytest.raises(OSError, match=f"No space left on device: '{folder}/[a-z]+.(json|jsonl|pt)'"):
            train_configured(TINY, folder, checkpoint_every=0, quiet=True)
    assert not (folder / LOCK).exists() and not list(folder.glob(".*"))
    if (folder / "checkpoint.pt").exists():
        load_checkpoint(folder / "checkpoint.pt")
    train_configured(TINY, folder, quiet=True)
    assert_same_run(whole, folder)


def limited(folder: Path, size: int) -> subprocess.CompletedProcess:
    """A process whose files may have so many bytes: the kernel refuses the rest, as on a full disk."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    command = [sys.executable, "-m", "fastat", *TRAIN, "--out", str(folder)]
    return subprocess.run(
        command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False, preexec_fn=limit
    )


@pytest.mark.slow
def test_a_checkpoint_that_the_disk_has_no_room_for(tmp_path):
    assert start(tmp_path / "whole").wait(300) == 0
    size = (tmp_path / "whole" / "checkpoint.pt").stat().st_size
    done = limited(tmp_path / "run", size - 600)  # the first ones, of a shorter history, are smaller
    assert done.returncode == 1 and "error: " in done.stderr and "Traceback" not in done.stderr
    assert "checkpoint.pt" in done.stderr
    before = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert 0 < before["epoch"] < 6
    process = start(tmp_path / "run")
    assert "continues after" in process.communicate(timeout=300)[0]
    assert_same_run(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    "name", ["with spaces", "ünï-Ⅷ-漢字", "a\nline", "x" * 200, "a/../b", "'$(touch x)'", "[0]*?", "-dash", "%s{0}"]
)
def test_odd_names(tmp_path, monkeypatch, whole, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for place in (Path(name), tmp_path / name):
        train_configured(TINY, place, quiet=True)
        assert_same_run(whole, place)
    assert load_network(name).epoch == load_network(whole).epoch
    assert {file.name for file in tmp_path.iterdir()} <= {"a", name, "b"}


def test_links_and_slashes(tmp_path, whole):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there", target_is_directory=True)
    train_configured(TINY, f"{tmp_path}/link/", quiet=True)
    assert_same_run(whole, tmp_path / "there")
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("inside", ["", "/run"])
def test_a_file_where_the_folder_should_be(tmp_path, inside):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit, match=r"error: .*file"):
        main(["train", "--out", f"{tmp_path}/file{inside}"])
    assert (tmp_path / "file").read_text() == "mine"


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(SystemExit, match=r"error: .*File name too long"):
        main(["train", "--out", str(tmp_path / ("x" * 300))])
