"""Image files of one size: decoded by several processes as by one."""

import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from killing import is_alive, wait_for
from pictures import SIZE, files_of, loaded, plain

from fastat import data
from fastat.data import image_files
from fastat.data.image_files import read_image, read_images


@pytest.fixture
def processes(monkeypatch) -> list[int]:
    """How many processes were started, each time."""
    started: list[int] = []

    class Counted(image_files.ProcessPoolExecutor):
        def __init__(self, count, *rest):
            started.append(count)
            super().__init__(count, *rest)

    monkeypatch.setattr(image_files, "ProcessPoolExecutor", Counted)
    return started


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_processes_decode_what_one_does(folder, many, processes, mode, monkeypatch, capsys):
    monkeypatch.setattr(image_files, "cores", lambda: 3)
    before = torch.get_rng_state()
    files = files_of(folder)
    expected = torch.stack([read_image(file, mode) for file in files])
    assert expected.equal(plain(files)) or mode == "L"
    assert read_images(files, mode, SIZE).equal(expected)
    assert read_images(files[:8], mode, SIZE).equal(expected[:8])
    assert processes == [3]  # for the twelve alone
    assert capsys.readouterr().err == "decoding 12 images\n"
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize(("limit", "tasks"), [(1, 12), (2 * 3 * 7 * 5, 6), (3 * 3 * 7 * 5, 4)])
def test_large_images_are_decoded_a_few_at_a_time(folder, processes, monkeypatch, limit, tasks):
    monkeypatch.setattr(image_files, "_TASK_BYTES", limit)
    monkeypatch.setattr(image_files, "cores", lambda: 100)
    files = files_of(folder)
    assert read_images(files, "RGB", SIZE).equal(plain(files))
    assert processes == ([tasks] if tasks > 4 else [])
    assert image_files.are_many(files, "RGB", SIZE) == (tasks > 4)


def test_a_share_of_the_cores_under_torchrun(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    alone = image_files.cores()
    for text, count in (("2", 2), (str(10 * alone), 10 * alone), ("", 1), ("0", 1), ("x", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", text)
        assert image_files.cores() == max(alone // count, 1)


@pytest.mark.parametrize("content", [b"", b"junk", "half"])
def test_a_broken_file_is_one_line_with_its_name(folder, many, content):
    broken = folder / "train" / "b" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:-200] if content == "half" else content)
    for files in (files_of(folder), [broken]):
        with pytest.raises(ValueError, match=r"b/1\.jpg cannot be read as an image: .+") as caught:
            read_images(files, "RGB", SIZE)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"b/1\.jpg cannot be read"):
        data.load(f"folder:{folder}")
    assert list(many.glob("*")) == []


def test_a_file_that_cannot_be_opened_is_an_error_of_the_system(folder, many):
    files = files_of(folder)
    files[9].unlink()
    for some in (files, files[9:]):
        with pytest.raises(FileNotFoundError, match=str(files[9])):
            read_images(some, "RGB", SIZE)
    files[9].mkdir()
    with pytest.raises(IsADirectoryError, match=str(files[9])):
        read_images(files, "RGB", SIZE)


def test_a_daemon_decodes_by_itself(folder, many):
    """It may have no processes of its own: starting one would be an error."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(loaded, (folder,)).equal(plain(files_of(folder)))


SLOW = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
from fastat.cli import main
from fastat.data import image_files
image_files._TASK_FILES, image_files.cores = 1, lambda: 2
pixels = image_files._pixels
def slow(*given):
    masked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    file = pathlib.Path(sys.argv[1], str(os.getpid()))
    if not file.exists():
        file.write_text(str(masked))
    time.sleep(0.5)
    return pixels(*given)
image_files._pixels = slow
main(["train", "--data", "folder:" + sys.argv[2], "--out", sys.argv[3]])
"""


@pytest.mark.parametrize("end", ["Ctrl-C", "SIGKILL", "SIGKILL of a worker"])
def test_no_process_is_left_and_one_line_is_said(folder, tmp_path, end):
    """Ctrl-C goes to all processes; a kill to one of them."""
    seen = tmp_path / "seen"
    seen.mkdir()
    given = [sys.executable, "-c", SLOW, str(seen), str(folder), str(tmp_path / "run")]
    environment = {**os.environ, "FASTAT_CACHE": ""}
    run = subprocess.Popen(given, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    wait_for(lambda: len([file for file in seen.iterdir() if file.read_text()]) == 2)
    workers = [int(file.name) for file in seen.iterdir()]
    if end == "Ctrl-C":
        os.killpg(run.pid, signal.SIGINT)
    else:
        os.kill(run.pid if end == "SIGKILL" else workers[0], signal.SIGKILL)
    said = run.communicate(timeout=100)[1].splitlines()
    expected = {
        "Ctrl-C": (130, ["", "stopped; the same command continues from where it was"]),
        "SIGKILL": (-signal.SIGKILL, []),
        "SIGKILL of a worker": (1, ["error: a process that decoded images was killed, perhaps for want of memory: "]),
    }
    status, lines = expected[end]
    assert run.returncode == status
    assert {file.read_text() for file in seen.iterdir()} == {"True"}  # a worker that waits would print a traceback
    assert said[0] == "decoding 12 images" and len(said) == 1 + len(lines)
    assert all(text.startswith(line) for text, line in zip(said[1:], lines, strict=True))
    wait_for(lambda: not any(is_alive(process) for process in workers))
