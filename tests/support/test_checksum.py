"""Checksums: damage anywhere is seen, and other readers see none of it."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fastat.support.files import load_checkpoint, save_checkpoint
from fastat.support.files.arrays import read_arrays, save_arrays

NAMES = ("a", "b")


def write_checkpoint(path: Path) -> None:
    save_checkpoint(path, {"w": torch.arange(6.0), "step": 3, "text": "abc"})


def write_arrays(path: Path) -> None:
    save_arrays(path, {"a": np.arange(6.0), "b": np.array("text")})


def write_compressed(path: Path) -> None:
    save_arrays(path, {"a": np.arange(6.0), "b": np.array("text")}, compressed=True)


KINDS = {
    "checkpoint": (write_checkpoint, load_checkpoint),
    "arrays": (write_arrays, lambda path: read_arrays(path, NAMES)),
    "compressed": (write_compressed, lambda path: read_arrays(path, NAMES)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_seen_in_every_byte(tmp_path, kind):
    write, read = KINDS[kind]
    file = tmp_path / "file"
    write(file)
    read(file)
    whole = file.read_bytes()
    tail = len(whole) - 150  # the checksum and what announces it
    for place, bit in [(n, bit) for n in range(len(whole)) for bit in (range(8) if n >= tail else (n % 8,))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"file is damaged: .* delete it to have it made anew"):
            read(file)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_ends_early_is_refused(tmp_path, kind):
    write, read = KINDS[kind]
    file = tmp_path / "file"
    write(file)
    whole = file.read_bytes()
    for size in (*range(0, len(whole) - 200, 37), *range(len(whole) - 200, len(whole))):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"file is (damaged|not a)"):
            read(file)


def test_other_readers_see_plain_files(tmp_path):
    write_checkpoint(tmp_path / "a.pt")
    for options in ({}, {"mmap": True}):
        assert torch.load(tmp_path / "a.pt", weights_only=True, **options)["w"].tolist() == [0, 1, 2, 3, 4, 5]
    assert zipfile.ZipFile(tmp_path / "a.pt").testzip() is None
    write_arrays(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as content:
        assert str(content["b"]) == "text" and content["a"].sum() == 15


def test_files_without_a_checksum_are_read(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "zip.pt")
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for name in ("zip.pt", "old.pt"):
        assert load_checkpoint(tmp_path / name)["w"].tolist() == [1, 1]
    np.savez(tmp_path / "a.npz", a=np.arange(3), more=np.zeros(2))
    assert read_arrays(tmp_path / "a.npz", NAMES)["a"].tolist() == [0, 1, 2]


def test_the_same_content_is_the_same_file(tmp_path):
    for write, _ in KINDS.values():
        write(tmp_path / "one")
        write(tmp_path / "other")
        assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def packed(content: bytes, method: int) -> bytes:
    """A zip archive again, its members stored by another method."""
    made, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(made, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    return made.getvalue()


def test_a_checkpoint_takes_no_more_memory_than_its_bytes(tmp_path):
    """What torch itself would read: compressed parts; and see test_pickles.py."""
    file = tmp_path / "a.pt"
    torch.save({"w": torch.zeros(1 << 20)}, file)
    whole = file.read_bytes()
    file.write_bytes(packed(whole, zipfile.ZIP_STORED))
    assert load_checkpoint(file)["w"].shape == (1 << 20,)
    file.write_bytes(packed(whole, zipfile.ZIP_DEFLATED))
    assert file.stat().st_size < 10_000 and torch.load(file, weights_only=True)["w"].shape == (1 << 20,)
    with pytest.raises(ValueError, match=r"a\.pt is not a checkpoint that can be read \(it is compressed"):
        load_checkpoint(file)


def npz_of(header: bytes, content: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    """An npz file of one array with this header."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content)
    return made.getvalue()


def header(shape: str, kind: str = "|u1") -> bytes:
    return f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}\n".encode()


def claiming(size: int, content: bytes) -> bytes:
    """The archive, whose directory says that its first member unpacks to so many bytes."""
    place = content.index(b"PK\x01\x02") + 24
    return content[:place] + size.to_bytes(4, "little") + content[place + 4 :]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (npz_of(header("(4611686018427387904,)"), b"abc"), r"claims \[4611686018427387904\] of uint8"),
        (npz_of(header("(2,)"), b"abc"), r"claims \[2\] of uint8, 2 bytes, and has 3"),
        (npz_of(header("(1000000000000,)", "<U0"), b""), r"claims \[1000000000000\] of <U0"),
        (npz_of(header("(1,)", "|O"), b"12345678"), "an array holds objects"),
        (npz_of(header("(-1,)"), b""), "claims|not a"),
        (npz_of(header("(1,)", "<U1"), b"\xff\xff\xff\x7f"), r"a\.npy holds what is no text"),
        (npz_of(header("(1,)", ">U1"), b"\x00\x00\xd8\x00"), r"a\.npy holds what is no text"),
        (npz_of(header("(1,)", "|V4"), b"1234"), r"an array is of \|V4"),
        (npz_of(b"rubbish"), "malformed node"),
        (
            claiming((1 << 30) + 1, npz_of(header("(9,)"), bytes(9), zipfile.ZIP_DEFLATED)),
            "would take more than 1024 MiB",
        ),
    ],
    ids=[
        "huge",
        "short",
        "no bytes each",
        "objects",
        "negative",
        "no text",
        "half a pair",
        "other kinds",
        "rubbish",
        "bomb",
    ],
)
def test_an_array_takes_no_more_memory_than_is_there(tmp_path, content, said):
    file = tmp_path / "a.npz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.npz is not an npz file of plain arrays: .*({said})"):
        read_arrays(file, NAMES)
