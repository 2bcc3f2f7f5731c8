"""The formats of the other datasets, from miniature files, and the download of what is missing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from fastat import data
from fastat.data import download


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def write_cifar100(root: Path) -> None:
    folder = root / "cifar-100-python"
    folder.mkdir()
    for seed, (name, n) in enumerate((("train", 6), ("test", 3))):
        labels = {b"fine_labels": [7 + i for i in range(n)], b"coarse_labels": [0] * n}
        (folder / name).write_bytes(pickle.dumps({b"data": images(n, 3072, seed=seed), **labels}, protocol=2))
    names = [f"kind {i}".encode() for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names, b"coarse_label_names": []}, protocol=2))


def write_svhn(root: Path) -> None:
    for seed, (name, n) in enumerate((("train", 12), ("test", 10))):
        labels = 1 + np.arange(n)[:, None] % 10
        savemat(root / f"{name}_32x32.mat", {"X": images(32, 32, 3, n, seed=seed), "y": labels}, do_compression=True)


def write_tiny_imagenet(root: Path) -> None:
    folder = root / "tiny-imagenet-200"
    for shade, wnid in enumerate(("n02", "n01", "n03")):
        place = folder / "train" / wnid / "images"
        place.mkdir(parents=True)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("not an image")
        for number in range(2):
            Image.new("L" if number else "RGB", (64, 64), 40 * shade).save(place / f"{wnid}_{number}.JPEG")
    (folder / "val" / "images").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (64, 64), (90 + 10 * number,) * 3).save(folder / "val" / "images" / f"val_{number}.JPEG")
    # not in the order of the names
    lines = [f"val_{number}.JPEG\t{wnid}\t0\t0\t9\t9" for number, wnid in ((2, "n03"), (0, "n01"), (1, "n03"))]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tape\n")


def write_imagenet(root: Path) -> None:
    for half, n in (("train", 3), ("val", 1)):
        for shade, wnid in enumerate(("n01", "n02")):
            folder = root / "imagenet" / half / wnid
            folder.mkdir(parents=True)
            for number in range(n):
                Image.new("RGB", (300 + number, 260), (100 * shade + number,) * 3).save(folder / f"{number}.JPEG")


WRITERS = {
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "tiny-imagenet": write_tiny_imagenet,
    "imagenet": write_imagenet,
}


class TestCifar100:
    def test_reads_the_fine_labels(self, tmp_path):
        write_cifar100(tmp_path)
        split = data.load("cifar100", tmp_path)
        assert split.train.images.flatten(1).equal(torch.from_numpy(images(6, 3072)))
        assert split.test.labels.tolist() == [7, 8, 9]
        assert (len(split.train.classes), split.train.classes[42]) == (100, "kind 42")

    def test_a_batch_cannot_run_code(self, tmp_path):
        write_cifar100(tmp_path)
        (tmp_path / "cifar-100-python" / "meta").write_bytes(pickle.dumps(Path.cwd))
        with pytest.raises(ValueError, match="should hold only arrays"):
            data.load("cifar100", tmp_path)

    @pytest.mark.parametrize("name", ["meta", "train", "test"])
    def test_missing_file(self, tmp_path, name):
        write_cifar100(tmp_path)
        (tmp_path / "cifar-100-python" / name).unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name} is missing; unpack cifar-100-python\.tar\.gz"):
            data.load("cifar100", tmp_path)


class TestSvhn:
    def test_reads(self, tmp_path):
        write_svhn(tmp_path)
        split = data.load("svhn", tmp_path)
        stored = images(32, 32, 3, 12)
        for i in range(12):
            assert split.train.images[i].equal(torch.from_numpy(stored[..., i]).permute(2, 0, 1))
        assert split.train.labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2]  # stored: 10 for 0

    def test_broken(self, tmp_path):
        write_svhn(tmp_path)
        file = tmp_path / "test_32x32.mat"
        whole = file.read_bytes()
        for content in (b"", b"junk" * 100, whole[: len(whole) // 2]):
            file.write_bytes(content)
            with pytest.raises(ValueError, match=r"test_32x32\.mat is not a (whole )?MATLAB file"):
                data.load("svhn", tmp_path)
        savemat(file, {"y": np.ones((2, 1))})
        with pytest.raises(ValueError, match=r"test_32x32\.mat lacks X"):
            data.load("svhn", tmp_path)


class TestTinyImagenet:
    def test_reads(self, tmp_path):
        write_tiny_imagenet(tmp_path)
        split = data.load("tiny-imagenet", tmp_path)
        assert split.train.images.shape == (6, 3, 64, 64)
        assert split.train.images[:, 0, 0, 0].tolist() == pytest.approx([40, 40, 0, 0, 80, 80], abs=2)  # JPEG
        assert split.train.labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert split.train.classes == ("goldfish", "ape", "n03")
        assert split.test.labels.tolist() == [2, 0, 2]
        assert split.test.images[:, 0, 0, 0].tolist() == pytest.approx([110, 90, 100], abs=2)

    def test_unknown_class(self, tmp_path):
        write_tiny_imagenet(tmp_path)
        notes = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
        notes.write_text("val_0.JPEG\tn99\t0\t0\t9\t9\n")
        with pytest.raises(ValueError, match=r"val_0\.JPEG' is of class 'n99'"):
            data.load("tiny-imagenet", tmp_path)


def test_imagenet_stays_on_the_disk(tmp_path):
    write_imagenet(tmp_path)
    split = data.load("imagenet", tmp_path)
    assert isinstance(split.train, data.Streamed)
    assert (len(split.train), len(split.test)) == (6, 2)
    assert split.train.classes == ("n01", "n02")
    assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.test.files == tuple(tmp_path / "imagenet" / "val" / wnid / "0.JPEG" for wnid in ("n01", "n02"))


class TestTensors:
    @staticmethod
    def write(folder: Path, **changed: np.ndarray | None) -> str:
        arrays = {"x_train": images(5, 3, 4, 6), "y_train": np.array([0, 1, 2, 0, 1])}
        arrays |= {"x_test": images(2, 3, 4, 6, seed=1), "y_test": np.array([2, 0], dtype=np.uint8)}
        np.savez(folder / "own.npz", **{name: a for name, a in (arrays | changed).items() if a is not None})
        return f"tensors:{folder / 'own.npz'}"

    def test_reads(self, tmp_path):
        split = data.load(self.write(tmp_path))
        assert split.train.images.equal(torch.from_numpy(images(5, 3, 4, 6)))
        assert split.test.labels.tolist() == [2, 0]
        assert (split.train.title, split.train.classes) == ("own", ("0", "1", "2"))

    def test_grey_images_and_names(self, tmp_path):
        grey = {"x_train": images(5, 4, 6), "x_test": images(2, 4, 6), "classes": np.array(["a", "b", "c", "d"])}
        split = data.load(self.write(tmp_path, **grey))
        assert split.train.image_shape == split.test.image_shape == (1, 4, 6)
        assert split.test.classes == ("a", "b", "c", "d")

    def test_floating_point_features_and_any_number_of_channels(self, tmp_path):
        rows = {"x_train": images(5, 7) / 100 - 1, "x_test": images(2, 7) / 100 - 1}
        split = data.load(self.write(tmp_path, **rows))
        assert split.train.image_shape == (7, 1, 1) and split.train.images.dtype == torch.float32
        assert split.train.pixels().flatten(1).equal(torch.from_numpy(rows["x_train"].astype(np.float32)))
        split = data.load(self.write(tmp_path, x_train=images(5, 5, 8, 8), x_test=images(2, 5, 8, 8)))
        assert split.train.image_shape == (5, 8, 8) and len(data.channel_statistics(split.train)[0]) == 5

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"y_test": None}, "lacks y_test: save all of x_train, y_train, x_test, y_test with"),
            ({"y_train": np.array(list("abcde"))}, "y_train must be integers, got <U1"),
            ({"y_test": np.array([0.0, np.nan])}, "y_test must be integers, got float64"),
            ({"y_test": np.array([-1, 0])}, r"labels must be in 0\.\.2, got -1\.\.0"),
            ({"x_test": images(3, 3, 4, 6)}, r"labels must be int64 \[3\]"),
            ({"x_train": images(5, 3, 4, 6).astype(int)}, "images must be uint8 or float32"),
            ({"x_train": np.full((5, 3, 4, 6), np.nan)}, "images must be finite"),
            (
                {"x_train": images(5, 8, 8, 3), "x_test": images(2, 8, 8, 3)},
                r"x_train \[5, 8, 8, 3\] seems to have its channels last: save x\.transpose\(0, 3, 1, 2\)",
            ),
            ({"x_test": images(2, 4, 6)}, r"images of one shape, got \(3, 4, 6\) and \(4, 6\)"),
            ({"classes": np.array(["a"])}, r"labels must be in 0\.\.0"),
            ({"classes": np.array([None])}, "not an npz file of plain arrays"),
        ],
    )
    def test_rejects(self, tmp_path, changed, message):
        with pytest.raises(ValueError, match=message):
            data.load(self.write(tmp_path, **changed))

    def test_other_files(self, tmp_path):
        file = tmp_path / "own.npz"
        with pytest.raises(FileNotFoundError, match=r"there is no file .*own\.npz"):
            data.load(f"tensors:{file}")
        for content in (b"", b"junk"):
            file.write_bytes(content)
            with pytest.raises(ValueError, match="not an npz file of plain arrays"):
                data.load(f"tensors:{file}")
        np.save(tmp_path / "one.npy", images(2, 2))
        with pytest.raises(ValueError, match="not an npz file of plain arrays"):
            data.load(f"tensors:{tmp_path / 'one.npy'}")


class TestMissing:
    @pytest.mark.parametrize(
        ("name", "what", "where"),
        [
            ("mnist", "four files", "MNIST/raw"),
            ("fashion-mnist", "four files", "FashionMNIST/raw"),
            ("cifar10", "cifar-10-python.tar.gz", "cifar-10-batches-py"),
            ("cifar100", "cifar-100-python.tar.gz", "cifar-100-python"),
            ("svhn", "train_32x32.mat", "train_32x32.mat"),
            ("tiny-imagenet", "tiny-imagenet-200.zip", "tiny-imagenet-200"),
            ("imagenet", "ILSVRC2012_img_train.tar", "imagenet/train"),
        ],
    )
    def test_says_what_to_put_where(self, tmp_path, name, what, where):
        with pytest.raises(FileNotFoundError) as raised:
            data.load(name, tmp_path)
        message = str(raised.value)
        assert what in message
        assert str(tmp_path / where) in message
        assert ("--download" in message) == (name != "imagenet")
        assert not list(tmp_path.iterdir())  # nothing comes by itself

    @pytest.mark.parametrize("name", ["cifar100", "svhn", "tiny-imagenet"])
    def test_download_fetches_what_is_missing_once(self, tmp_path, monkeypatch, name):
        fetched = []

        def source(root: Path) -> None:
            fetched.append(root)
            WRITERS[name](root)

        monkeypatch.setitem(download.SOURCES, name, source)
        root = tmp_path / "new"
        first = data.load(name, root, download=True)
        again = data.load(name, root, download=True)
        assert fetched == [root]
        assert first.train.images.equal(again.train.images)

    def test_download_that_fails(self, tmp_path, monkeypatch):
        def source(root: Path) -> None:
            raise OSError("no route to host")

        monkeypatch.setitem(download.SOURCES, "svhn", source)
        with pytest.raises(FileNotFoundError, match="downloading svhn failed: no route to host"):
            data.load("svhn", tmp_path, download=True)

    def test_every_source_writes_where_its_loader_reads(self, tmp_path, monkeypatch):
        """torchvision's downloaders, without the network: the folder that each is told to fill."""
        asked = {}
        for kind in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN"):
            monkeypatch.setattr(
                download.datasets, kind, lambda root, kind=kind, **options: asked.setdefault(kind, (root, options))
            )
        monkeypatch.setattr(download, "download_and_extract_archive", lambda *a: asked.setdefault("tiny", a))
        assert set(download.SOURCES) == set(data.names()) - {"digits", "imagenet"}
        for name in download.SOURCES:
            download.fetch(name, tmp_path)
        assert len(asked) == len(download.SOURCES)
        url, target = asked.pop("tiny")
        assert (url.rsplit("/", 1)[1], target) == ("tiny-imagenet-200.zip", str(tmp_path))
        assert all(root == tmp_path and options["download"] for root, options in asked.values())

    def test_imagenet_cannot_be_downloaded(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"ILSVRC2012_img_train\.tar to .*--download cannot fetch it"):
            data.load("imagenet", tmp_path, download=True)
