"""Image files of one size: decoded by worker processes as by this one, kept for the next time."""

import multiprocessing
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastat import data
from fastat.data import image_cache
from fastat.data.image_files import OtherSizeError, read_images


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


@pytest.fixture
def many(monkeypatch, tmp_path) -> Path:
    """Five files are many, so that worker processes decode and the images are kept in the folder returned."""
    monkeypatch.setattr("fastat.data.image_files.MANY", 5)
    monkeypatch.setattr("fastat.data.image_cache.MANY", 5)
    monkeypatch.setenv("FASTAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_workers_decode_what_one_process_does(folder, many, capfd):
    before = torch.get_rng_state()
    files = files_of(folder)
    assert read_images(files, "RGB").equal(plain(files))
    assert read_images(files[:4], "RGB").equal(plain(files[:4]))
    assert torch.get_rng_state().equal(before)
    assert capfd.readouterr().err.splitlines() == ["decoding 12 images"]  # of the twelve alone


@pytest.mark.parametrize("content", [b"", b"junk", "half"])
def test_a_broken_file_is_one_line_with_its_name(folder, many, content):
    broken = folder / "train" / "b" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:-200] if content == "half" else content)
    for files in (files_of(folder), [folder / "train" / "a" / "0.png", broken]):
        with pytest.raises(ValueError, match=r"b/1\.jpg cannot be read as an image: .+") as caught:
            read_images(files, "RGB")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"b/1\.jpg cannot be read"):
        data.load(f"folder:{folder}")
    assert list(many.glob("*")) == []


def test_another_size_is_told(folder, many):
    Image.new("RGB", (7, 6)).save(folder / "test" / "b" / "0.png")
    with pytest.raises(OtherSizeError, match=r"b/0\.png has 7x6 pixels, the first image 7x5$"):
        read_images(files_of(folder), "RGB")
    assert isinstance(data.load(f"folder:{folder}").train, data.Streamed)


def loaded(folder: Path) -> torch.Tensor:
    split = data.load(f"folder:{folder}")
    return torch.cat([split.test.images, split.train.images])  # in the order of files_of


def decodings(monkeypatch) -> list[int]:
    """How many files each decoding was of, from now on."""
    seen: list[int] = []

    def counted(files, mode):
        seen.append(len(files))
        return read_images(files, mode)

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
    loaded(folder)
    first = folder / "test" / "a" / "0.png"
    times = first.stat()

    def other_pixels():
        Image.new("RGB", (7, 5), 200).save(first)

    def other_time():
        os.utime(first, ns=(times.st_atime_ns, times.st_mtime_ns + 1))

    def other_name():
        first.rename(first.with_name("00.png"))

    def one_less():
        first.with_name("00.png").unlink()

    for count, change in enumerate((other_pixels, other_time, other_name, one_less), start=2):
        change()
        assert loaded(folder).equal(plain(files_of(folder)))
        assert len(seen) == count
    assert len(list(many.iterdir())) == 1


def test_a_damaged_cache_is_made_anew(folder, many, monkeypatch):
    seen = decodings(monkeypatch)
    expected = loaded(folder)
    (file,) = many.iterdir()
    whole = file.read_bytes()
    pixels = whole.index(expected.numpy().tobytes()[-40:])
    flipped = bytearray(whole)
    flipped[pixels] ^= 1
    for number, content in enumerate((b"", b"PK", whole[:-100], whole[: len(whole) // 2], bytes(flipped)), start=2):
        file.write_bytes(content)
        assert loaded(folder).equal(expected)
        assert (len(seen), file.read_bytes()) == (number, whole)


def test_nothing_is_kept_where_that_is_not_wanted(folder, many, monkeypatch):
    monkeypatch.setenv("FASTAT_CACHE", "")
    expected = loaded(folder)
    monkeypatch.setenv("FASTAT_CACHE", str(many))
    monkeypatch.setattr("fastat.data.image_cache.MANY", 13)
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


def test_a_cache_that_cannot_be_written_is_a_warning(folder, many, monkeypatch):
    many.write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="cannot be kept in .*FASTAT_CACHE name another folder"):
        assert loaded(folder).equal(plain(files_of(folder)))


def test_processes_may_keep_the_same_at_once(folder, many):
    expected = plain(files_of(folder))
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=load_and_compare, args=(folder, expected)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert [file.suffix for file in many.iterdir()] == [".npz"]


def load_and_compare(folder: Path, expected: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(5):
            assert loaded(folder).equal(expected)
            for file in image_cache._cache_folder().iterdir():
                if file.suffix == ".npz":
                    file.unlink(missing_ok=True)
        assert loaded(folder).equal(expected)
