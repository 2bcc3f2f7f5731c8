"""Image files of one size: decoded by several processes as by one, kept for the next time."""

import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastat import data
from fastat.data import image_cache, image_files
from fastat.data.image_files import OtherSizeError, read_image, read_images


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images of noise, as PNG and JPEG, grey and colour."""
    noise = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("a", "b"):
            place = tmp_path / "pictures" / half / name
            place.mkdir(parents=True)
            for number, suffix in enumerate(("png", "jpg", "jpeg")):
                shape = (5, 7) if number == 2 else (5, 7, 3)
                Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(place / f"{number}.{suffix}")
    return tmp_path / "pictures"


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def plain(files: list[Path]) -> torch.Tensor:
    images = [np.array(Image.open(file).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


SIZE = (7, 5)


@pytest.fixture
def many(monkeypatch, tmp_path) -> Path:
    """Nine files are many, so that processes decode and the images are kept in the folder returned."""
    monkeypatch.setattr(image_files, "_TASK_FILES", 2)
    monkeypatch.setenv("FASTAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


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


def test_another_size_is_told_and_remembered(folder, many, monkeypatch):
    Image.new("RGB", (7, 6)).save(folder / "train" / "b" / "0.png")
    with pytest.raises(OtherSizeError, match=r"b/0\.png has 7x6 pixels, not 7x5$"):
        read_images(files_of(folder), "RGB", SIZE)
    seen = decodings(monkeypatch)
    for _ in range(3):
        assert isinstance(data.load(f"folder:{folder}").train, data.Streamed)
    assert seen == [12]
    Image.new("RGB", (7, 5)).save(folder / "train" / "b" / "0.png")
    assert loaded(folder).equal(plain(files_of(folder)))


def loaded(folder: Path) -> torch.Tensor:
    split = data.load(f"folder:{folder}")
    return torch.cat([split.test.images, split.train.images])  # in the order of files_of


def decodings(monkeypatch) -> list[int]:
    """How many files each decoding was of, from now on."""
    seen: list[int] = []

    def counted(files, mode, size):
        seen.append(len(files))
        return read_images(files, mode, size)

    monkeypatch.setattr(image_cache, "read_images", counted)
    return seen


def test_decoded_images_are_kept(folder, many, monkeypatch):
    seen = decodings(monkeypatch)
    expected = plain(files_of(folder))
    for _ in range(3):
        assert loaded(folder).equal(expected)
    monkeypatch.chdir(folder.parent)
    assert loaded(Path(folder.name)).equal(expected)
    assert seen == [12]
    assert [file.name.split("-")[0] for file in many.iterdir()] == ["pictures"]


def test_a_change_of_the_files_is_seen(folder, many, monkeypatch):
    seen = decodings(monkeypatch)
    first, second = folder / "test" / "a" / "0.png", folder / "test" / "b" / "0.bmp"
    Image.open(second.with_suffix(".png")).save(second)
    second.with_suffix(".png").unlink()
    loaded(folder)
    times = first.stat()

    def other_pixels():
        Image.new("RGB", (7, 5), 200).save(first)

    def other_time():
        os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns + 1))

    def other_pixels_at_the_same_time():
        before = second.stat()
        second.write_bytes(second.read_bytes().translate(bytes([*range(254), 255, 254])))
        os.utime(second, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (second.stat().st_size, second.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    def other_name():
        first.rename(first.with_name("00.png"))

    def one_less():
        first.with_name("00.png").unlink()

    for count, change in enumerate(
        (other_pixels, other_time, other_pixels_at_the_same_time, other_name, one_less), start=2
    ):
        change()
        assert loaded(folder).equal(plain(files_of(folder)))
        assert len(seen) == count
    assert len(list(many.iterdir())) == 1


def test_a_damaged_cache_is_made_anew(folder, many, monkeypatch):
    expected = loaded(folder)
    seen = decodings(monkeypatch)
    (file,) = many.iterdir()
    whole = file.read_bytes()
    other_shape, other_type, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with np.load(file) as content:
        np.savez(other_shape, key=content["key"], images=content["images"].transpose(0, 1, 3, 2))
        np.savez(other_type, key=content["key"], images=content["images"].astype(np.float32))
    np.save(array, expected.numpy())
    damaged = [b"", b"PK", whole[:-100], whole[: len(whole) // 2]]
    damaged += [part.getvalue() for part in (other_shape, other_type, array)]
    for place in (
        *range(0, 300, 7),
        whole.index(expected.numpy().tobytes()[-40:]),
        *range(len(whole) - 300, len(whole), 7),
    ):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        damaged.append(bytes(flipped))
    for content in damaged:
        file.write_bytes(content)
        assert loaded(folder).equal(expected)
        assert file.read_bytes() == (content if len(seen) == 0 else whole)
        seen.clear()


def test_nothing_is_kept_where_that_is_not_wanted(folder, many, monkeypatch):
    monkeypatch.setenv("FASTAT_CACHE", "")
    expected = loaded(folder)
    monkeypatch.setenv("FASTAT_CACHE", str(many))
    monkeypatch.setattr(image_files, "_TASK_FILES", 12)
    assert loaded(folder).equal(expected)
    assert not many.exists()


def test_where_it_is_kept(folder, many, monkeypatch, tmp_path):
    monkeypatch.delenv("FASTAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    loaded(folder)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    loaded(folder)
    for place in ("xdg", "home/.cache"):
        assert len(list((tmp_path / place / "fastat").iterdir())) == 1


def test_without_a_home_nothing_is_kept(folder, many, monkeypatch):
    def homeless(path):
        raise RuntimeError("Could not determine home directory.")

    expected = loaded(folder)
    seen = decodings(monkeypatch)
    monkeypatch.setattr("pathlib.Path.home", homeless)
    monkeypatch.setattr("pathlib.Path.expanduser", homeless)
    for name in ("FASTAT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert image_cache.read_images_once(folder, files_of(folder), "RGB", SIZE).equal(expected)
    assert seen == [12]
    monkeypatch.setenv("FASTAT_CACHE", "~nobody/x")
    with pytest.raises(ValueError, match=r"FASTAT_CACHE must name a folder, or be empty .* got '~nobody/x'"):
        image_cache.read_images_once(folder, files_of(folder), "RGB", SIZE)


@pytest.mark.parametrize("name", ["x" * 250, b"\xff\xfe".decode(errors="surrogateescape"), "a b'\"$%"])
def test_names_of_any_kind(folder, many, monkeypatch, name):
    other = folder.rename(folder.with_name(name))
    odd = other / "train" / "b" / "0.png"
    odd.rename(odd.with_name(f"{name[:200]}.png"))
    seen = decodings(monkeypatch)
    for _ in range(2):
        assert loaded(other).equal(plain(files_of(other)))
    assert seen == [12]


def test_a_cache_that_cannot_be_written_is_a_warning(folder, many, monkeypatch):
    many.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be kept in .*FASTAT_CACHE name another folder"):
        assert loaded(folder).equal(plain(files_of(folder)))


def test_processes_may_keep_the_same_at_once(folder, many):
    expected = plain(files_of(folder))
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=load_and_compare, args=(folder, many, expected)) for _ in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join(100)
    assert [process.exitcode for process in started] == [0] * 4
    assert [file.suffix for file in many.iterdir()] == [".npz"]


def load_and_compare(folder: Path, many: Path, expected: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(5):
            assert loaded(folder).equal(expected)
            for file in many.glob("*.npz"):
                file.unlink(missing_ok=True)
        assert loaded(folder).equal(expected)


def test_threads_may_keep_the_same_at_once(folder, many):
    expected = plain(files_of(folder))
    with ThreadPoolExecutor(4) as pool, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert all(found.equal(expected) for found in pool.map(loaded, [folder] * 8))
    assert [file.suffix for file in many.iterdir()] == [".npz"]


def test_a_daemon_decodes_by_itself(folder, many):
    """It may have no processes of its own: starting one would be an error."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(loaded, (folder,)).equal(plain(files_of(folder)))


def test_another_version_of_pillow_decodes_anew(folder, many, monkeypatch):
    seen = decodings(monkeypatch)
    for version in ("1", "1", "2"):
        monkeypatch.setattr("PIL.__version__", version)
        loaded(folder)
    assert seen == [12, 12]


def test_what_killed_processes_left_is_removed_after_a_day(folder, many):
    many.mkdir()
    loaded(folder)
    (kept,) = many.iterdir()
    old, new, other = (many / name for name in (f".{kept.name}.1.tmp", f".{kept.name}.2.tmp", ".other.npz.1.tmp"))
    for file in (old, new, other):
        file.touch()
    for file in (old, other):
        os.utime(file, (0, 0))
    kept.unlink()
    loaded(folder)
    assert {*many.iterdir()} == {kept, new, other}


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


def wait_for(condition) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process: int) -> bool:
    """Whether it runs: not one that is over and that nobody has asked about."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
