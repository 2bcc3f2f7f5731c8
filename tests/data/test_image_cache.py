"""Decoded images are kept for the next time, as long as they are true."""

import io
import multiprocessing
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import SIZE, decodings, files_of, loaded, plain
from PIL import Image

from fastat import data
from fastat.data import image_cache, image_files
from fastat.data.image_files import OtherSizeError, read_images


def test_another_size_is_remembered(folder, many, monkeypatch):
    Image.new("RGB", (7, 6)).save(folder / "train" / "b" / "0.png")
    with pytest.raises(OtherSizeError, match=r"b/0\.png has 7x6 pixels, not 7x5$"):
        read_images(files_of(folder), "RGB", SIZE)
    seen = decodings(monkeypatch)
    for _ in range(3):
        assert isinstance(data.load(f"folder:{folder}").train, data.Streamed)
    assert seen == [12]
    Image.new("RGB", (7, 5)).save(folder / "train" / "b" / "0.png")
    assert loaded(folder).equal(plain(files_of(folder)))


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
