"""Files that claim or unpack to more than there is, and labels that would make names without end."""

import gzip
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

from fastat import data
from fastat.data import mat
from fastat.support.files import arrays

HUGE = 2**62


def tensors(folder: Path, **changed: np.ndarray) -> str:
    """The name of a dataset of four and two samples in a file."""
    own = {"x_train": np.zeros((4, 3, 8, 8), np.uint8), "y_train": np.array([0, 1, 2, 0])}
    own |= {"x_test": np.zeros((2, 3, 8, 8), np.uint8), "y_test": np.array([2, 0])}
    np.savez(folder / "own.npz", **(own | changed))
    return f"tensors:{folder / 'own.npz'}"


@pytest.mark.parametrize("label", [HUGE, 2**63 - 1, 10**9, 65_536])
def test_a_large_label_makes_no_names(tmp_path, label):
    made = {
        "tensors": lambda: data.load(tensors(tmp_path, y_train=np.array([label, 0, 1, 2]))),
        "test": lambda: data.load(tensors(tmp_path, y_test=np.array([label, 0]))),
        "arrays": lambda: data.as_dataset((torch.zeros(2, 3), torch.tensor([label, 0])), "own"),
        "items": lambda: data.as_dataset([(torch.zeros(3), label), (torch.zeros(3), 0), (torch.zeros(3), 1)], "own"),
    }
    tracemalloc.start()
    for make in made.values():
        with pytest.raises(ValueError, match=rf"(own|own\.npz) has the label {label} among \d samples: .*classes"):
            make()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10 << 20


def test_labels_beyond_64_bits_are_refused(tmp_path):
    beyond = np.array([2**63 + 1, 0, 1, 2], dtype=np.uint64)
    with pytest.raises(ValueError, match=r"own\.npz: labels must be below"):
        data.load(tensors(tmp_path, y_train=beyond))
    with pytest.raises(ValueError, match=r"sample 0 has the label \d+, which is no class"):
        data.as_dataset([(torch.zeros(3), 2**63), (torch.zeros(3), 0)], "own")


def test_as_many_classes_as_samples_need_no_names(monkeypatch):
    monkeypatch.setattr("fastat.data.dataset.MOST_UNNAMED", 2)
    assert len(data.as_dataset((torch.zeros(5, 3), torch.tensor([0, 1, 2, 3, 4])), "own").classes) == 5
    with pytest.raises(ValueError, match="own has the label 5 among 5 samples"):
        data.as_dataset((torch.zeros(5, 3), torch.tensor([0, 1, 2, 3, 5])), "own")


def test_labels_from_1_are_warned_of(tmp_path):
    labels = {"y_train": np.array([1, 2, 3, 1]), "y_test": np.array([3, 1])}
    with pytest.warns(UserWarning, match=r"labels from 1 to 3 and none 0, so that class 0 is empty: subtract 1"):
        assert data.load(tensors(tmp_path, **labels)).train.classes == ("0", "1", "2", "3")
    with pytest.warns(UserWarning, match="own has labels from 1 to 2"):
        data.as_dataset((torch.zeros(4, 3), torch.tensor([1, 2, 2, 1])), "own")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = np.array(["none", "a", "b", "c"])
        assert data.load(tensors(tmp_path, **labels, classes=named)).train.classes[0] == "none"
        for few in ([1], [3, 5, 3, 5], [1, 1, 1], [1, 2, 4, 1, 2, 4, 1, 2]):  # a few samples of more classes
            data.as_dataset((torch.zeros(len(few), 3), torch.tensor(few)), "own")


def test_names_without_end_are_refused(tmp_path):
    for names in (np.zeros((10**9, 0), "<U1"), np.array("name")):
        with pytest.raises(ValueError, match=r"own\.npz: classes must be names \[C\]"):
            data.load(tensors(tmp_path, classes=names))


def write_mnist(root: Path) -> Path:
    """The four files, packed; the first of them is returned."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for prefix, n in (("train", 3), ("t10k", 2)):
        images = struct.pack(">4B3I", 0, 0, 8, 3, n, 4, 4) + bytes(16 * n)
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(n))
        )
    return folder / "train-images-idx3-ubyte.gz"


def test_a_packed_idx_file_unpacks_to_no_more_than_is_allowed(tmp_path, monkeypatch):
    file = write_mnist(tmp_path)
    monkeypatch.setattr(arrays, "_ALWAYS", 1 << 20)
    assert len(data.load("mnist", tmp_path).train) == 3
    file.write_bytes(gzip.compress(bytes(2 << 20)))
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz unpacks to more than 1 MiB"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize(
    "shape", [(0, 4, 4), (2**32 - 1, 2**32 - 1, 2**32 - 1), (0, 2**32 - 1, 2**32 - 1), (4, 4, 4), (1, 6, 8)]
)
def test_an_idx_file_holds_what_it_claims(tmp_path, shape):
    packed = write_mnist(tmp_path)
    plain, content = packed.with_suffix(""), struct.pack(">4B3I", 0, 0, 8, 3, *shape) + bytes(0 if 0 in shape else 48)
    packed.write_bytes(gzip.compress(content))
    said = "(should hold|holds nothing|and train-labels-idx1-ubyte.gz: )"
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte\.gz {said}"):
        data.load("mnist", tmp_path)
    plain.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train-images-idx3-ubyte {said}"):
        data.load("mnist", tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X": np.array([[np.zeros(9), 3]], dtype=object)}, "an array is not one of"),
        ({"y": "text"}, "an array is not one of real numbers"),
        ({"X": np.zeros((2, 2), np.uint8)}, r"X should be uint8 \[32, 32, 3, N\]"),
        *(({"y": np.array([[1], [y]])}, "whole numbers from 1 to 10") for y in (-3, 0, 11, 1.5, np.nan, 2.0**53)),
        ({"y": np.array([[1], [-128]], np.int8)}, "whole numbers from 1 to 10"),
        ({"y": np.ones((3, 1))}, r"labels must be int64 \[2\]"),
    ],
)
def test_arrays_of_svhn_are_of_numbers(tmp_path, changed, message):
    for name in ("train", "test"):
        savemat(
            tmp_path / f"{name}_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((2, 1)), **changed}
        )
    with pytest.raises(ValueError, match=rf"train_32x32\.mat.*{message}"):
        data.load("svhn", tmp_path)


def test_an_array_of_svhn_is_no_larger_than_is_allowed(tmp_path, monkeypatch):
    for name in ("train", "test"):
        savemat(tmp_path / f"{name}_32x32.mat", {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((2, 1))})
    assert len(data.load("svhn", tmp_path).train) == 2
    monkeypatch.setattr(mat, "most_unpacked", lambda file: 6000)
    assert len(data.load("svhn", tmp_path).train) == 2  # nothing is unpacked
    savemat(
        tmp_path / "train_32x32.mat",
        {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((2, 1))},
        do_compression=True,
    )
    with pytest.raises(ValueError, match=r"train_32x32\.mat.* its arrays would take more than 0 MiB"):
        data.load("svhn", tmp_path)


@pytest.mark.parametrize("kind", ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", ">i4", ">f8"])
@pytest.mark.parametrize("packed", [False, True])
def test_arrays_of_matlab_are_read_as_scipy_reads_them(tmp_path, kind, packed):
    arrays = {"X": np.arange(24).reshape(2, 3, 4).astype(kind), "other": np.zeros(3), "y": np.array([[1, 2]], kind)}
    savemat(tmp_path / "a.mat", {"text": "X", **arrays, "z": np.zeros((0, 3))}, do_compression=packed)
    found, expected = mat.read_mat(tmp_path / "a.mat", ("X", "y", "z", "none")), loadmat(tmp_path / "a.mat")
    assert list(found) == ["X", "y", "z"]
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == expected[name].dtype.newbyteorder("=")


def test_a_picture_of_too_many_pixels_is_not_decoded(tmp_path):
    """A PNG file of a few bytes that claims 900 million pixels."""
    for half in ("train", "test"):
        (tmp_path / half / "a").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / half / "a" / "0.png")
    head = struct.pack(">2I5B", 30_000, 30_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    pixels = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + pixels)
    (tmp_path / "train" / "a" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"train/a/1\.png cannot be read as an image: .*decompression bomb"):
        data.load(f"folder:{tmp_path}")


def test_names_of_tiny_imagenet_stay_in_their_folder(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    for place in (folder / "train" / "n01" / "images", folder / "val" / "images"):
        place.mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(place / "0.png")
    notes = folder / "val" / "val_annotations.txt"
    for text, said in (
        (b"../../../x.png\tn01\n", r"val_annotations\.txt: '\.\./\.\./\.\./x\.png' is not the name of a file"),
        (b"0.png\n", r"val_annotations\.txt: '0\.png' is of class ''"),
        (b"\xff\xfe", r"val_annotations\.txt is not a text in UTF-8"),
    ):
        notes.write_bytes(text)
        with pytest.raises(ValueError, match=said):
            data.load("tiny-imagenet", tmp_path)
    notes.write_text("0.png\tn01\t0\t0\n")
    assert len(data.load("tiny-imagenet", tmp_path).test) == 1
