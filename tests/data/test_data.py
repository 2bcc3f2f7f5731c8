"""Datasets: the formats on disk, and the messages where something is missing; subsets, statistics, flipped labels."""

import gzip
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastat import data
from fastat.data import channel_statistics, flip_labels, make_dataset

ROOT = os.environ.get("FASTAT_DATA")
needs_data = pytest.mark.skipif(not ROOT, reason="FASTAT_DATA is not set: no real MNIST or CIFAR-10 here")


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


class TestDigits:
    def test_split_is_stratified_disjoint_and_complete(self):
        split = data.load("digits")
        assert (len(split.train), len(split.test)) == (1438, 359)
        assert torch.cat([split.train.ids, split.test.ids]).sort().values.equal(torch.arange(1797))
        shares = split.test.labels.bincount() / (split.train.labels.bincount() + split.test.labels.bincount())
        assert float((shares - 0.2).abs().max()) < 0.003

    def test_split_is_always_the_same(self):
        assert data.load("digits").test.ids[:8].tolist() == data.load("digits").test.ids[:8].tolist()
        # part of the dataset's definition: numbers in reports depend on it
        assert int((data.load("digits").test.ids * torch.arange(1, 360)).sum() % 1_000_003) == 72088

    def test_pixels_are_sixteenths(self):
        train = data.load("digits").train
        assert train.images.dtype == torch.uint8
        assert train.images.shape[1:] == (1, 8, 8)
        pixels = train.pixels()
        assert pixels.dtype == torch.float32
        assert (float(pixels.min()), float(pixels.max())) == (0.0, 1.0)
        assert pixels.equal(train.images / 16)


class TestMnist:
    @staticmethod
    def write(folder: Path, name: str, values: np.ndarray, packed: bool) -> None:
        header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
        content = header + values.astype(np.uint8).tobytes()
        (folder / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        folder = tmp_path / "MNIST" / "raw"
        folder.mkdir(parents=True)
        for prefix, n, packed in (("train", 12, False), ("t10k", 5, True)):
            self.write(folder, f"{prefix}-images-idx3-ubyte", images(n, 28, 28).numpy(), packed)
            self.write(folder, f"{prefix}-labels-idx1-ubyte", np.arange(n) % 10, packed)
        return tmp_path

    def test_reads_plain_and_gzipped(self, root):
        split = data.load("mnist", root)
        assert split.train.images.equal(images(12, 28, 28).unsqueeze(1))
        assert split.test.images.equal(images(5, 28, 28).unsqueeze(1))
        assert split.train.labels.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
        assert split.train.title == "MNIST"

    def test_missing_file_says_what_to_put_where(self, root):
        (root / "MNIST" / "raw" / "train-labels-idx1-ubyte").unlink()
        with pytest.raises(FileNotFoundError, match=r"raw/train-labels-idx1-ubyte \(or .*gz\) is missing; put"):
            data.load("mnist", root)

    def test_no_root(self, monkeypatch):
        monkeypatch.delenv("FASTAT_DATA", raising=False)
        with pytest.raises(FileNotFoundError, match="FASTAT_DATA"):
            data.load("mnist")

    def test_root_from_the_environment(self, root, monkeypatch):
        monkeypatch.setenv("FASTAT_DATA", str(root))
        assert len(data.load("mnist").train) == 12

    @pytest.mark.parametrize(("content", "message"), [(b"hello world, long", "not an IDX"), (None, "should hold")])
    def test_broken_file(self, root, content, message):
        file = root / "MNIST" / "raw" / "train-images-idx3-ubyte"
        file.write_bytes(file.read_bytes()[:-1] if content is None else content)
        with pytest.raises(ValueError, match=message):
            data.load("mnist", root)

    def test_fashion_mnist_has_the_format_and_names_of_its_own(self, root):
        (root / "MNIST").rename(root / "FashionMNIST")
        split = data.load("fashion-mnist", root)
        assert split.train.images.equal(images(12, 28, 28).unsqueeze(1))
        assert (split.train.title, split.train.classes[9]) == ("Fashion-MNIST", "ankle boot")
        with pytest.raises(FileNotFoundError, match=r"^MNIST: "):
            data.load("mnist", root)

    def test_cut_gzip(self, root):
        file = root / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
        for content in (file.read_bytes()[:-12], b"not packed"):
            file.write_bytes(content)
            with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte\.gz is not a whole gzip file"):
                data.load("mnist", root)

    @needs_data
    def test_real(self):
        split = data.load("mnist")
        assert split.train.images.shape == (60_000, 1, 28, 28)
        assert split.test.images.shape == (10_000, 1, 28, 28)
        assert split.train.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
        mean, std = channel_statistics(split.train)
        assert mean == pytest.approx([0.1307], abs=5e-5)
        assert std == pytest.approx([0.3081], abs=5e-5)


class TestCifar10:
    @staticmethod
    def write_batches(root: Path) -> None:
        folder = root / "cifar-10-batches-py"
        folder.mkdir()
        for number, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            batch = {b"data": images(4, 3072, seed=number).numpy(), b"labels": [0, 9, 3, number]}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))

    def test_reads_the_batches(self, tmp_path):
        self.write_batches(tmp_path)
        split = data.load("cifar10", tmp_path)
        assert split.train.images.shape == (20, 3, 32, 32)
        assert split.train.images[4:8].flatten(1).equal(images(4, 3072, seed=1))
        assert split.test.labels.tolist() == [0, 9, 3, 5]
        assert split.train.title == "CIFAR-10"
        assert split.train.classes[3] == "cat"

    def test_a_batch_cannot_run_code(self, tmp_path):
        self.write_batches(tmp_path)
        (tmp_path / "cifar-10-batches-py" / "data_batch_2").write_bytes(pickle.dumps(os.getcwd))
        with pytest.raises(ValueError, match=r"only arrays, found posix\.getcwd"):
            data.load("cifar10", tmp_path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is not a whole pickle"),
            (b"junk", "is not a whole pickle"),
            (pickle.dumps({b"labels": [0]}, 2), "is not a batch of CIFAR-10: its data must be an array of uint8"),
            (pickle.dumps([1], 2), "is not a batch of CIFAR-10"),
            (pickle.dumps({b"data": images(2, 10).numpy(), b"labels": [0, 1]}, 2), "is not a batch of CIFAR-10"),
        ],
    )
    def test_broken_batch(self, tmp_path, content, message):
        self.write_batches(tmp_path)
        (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
        with pytest.raises(ValueError, match=f"data_batch_3 {message}"):
            data.load("cifar10", tmp_path)

    def test_missing_batch(self, tmp_path):
        self.write_batches(tmp_path)
        (tmp_path / "cifar-10-batches-py" / "test_batch").unlink()
        with pytest.raises(FileNotFoundError, match="test_batch is missing"):
            data.load("cifar10", tmp_path)

    def test_missing_altogether(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"cifar-10-python\.tar\.gz.*cifar10-jpeg"):
            data.load("cifar10", tmp_path)

    @needs_data
    def test_real_jpeg_has_its_own_title(self, tmp_path):
        real = Path(str(ROOT)) / "cifar10-jpeg"
        if not real.is_dir():
            pytest.skip("FASTAT_DATA has no cifar10-jpeg folder")
        # two classes of the test split stand for everything: decoding all 60,000 files takes many seconds
        for half in ("train", "test"):
            (tmp_path / "cifar10-jpeg" / half).mkdir(parents=True)
            for name in ("cat", "ship"):
                (tmp_path / "cifar10-jpeg" / half / name).symlink_to(real / "test" / name)
        split = data.load("cifar10", tmp_path)
        assert split.train.title == split.test.title == "CIFAR-10 (JPEG)"
        assert split.test.images.shape == (2000, 3, 32, 32)
        assert split.test.labels.bincount().tolist() == [1000, 1000]


class TestFolder:
    @staticmethod
    def write(root: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
        for half in ("train", "test"):
            for shade, name in enumerate(("b", "a")):
                folder = root / half / name
                folder.mkdir(parents=True)
                for number in range(3):
                    Image.new(mode, size, color=10 * shade + number).save(folder / f"{number}.png")
                (folder / "notes.txt").write_text("not an image")

    @pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
    def test_reads(self, tmp_path, mode, channels):
        self.write(tmp_path, mode)
        split = data.load(f"folder:{tmp_path}")
        assert split.train.images.shape == (6, channels, 4, 6)
        assert split.train.classes == ("a", "b")
        assert split.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert split.train.images[:, 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2]
        assert split.train.title == tmp_path.name

    @pytest.mark.parametrize("limit", [None, 6 * 4 * 3 * 12 - 1])
    def test_stays_on_the_disk_if_sizes_differ_or_it_is_large(self, tmp_path, monkeypatch, limit):
        self.write(tmp_path)
        if limit is None:
            Image.new("RGB", (8, 8)).save(tmp_path / "test" / "b" / "1.png")
        else:
            monkeypatch.setattr("fastat.data.folder._MOST_BYTES", limit)
        split = data.load(f"folder:{tmp_path}")
        for half in (split.train, split.test):
            assert isinstance(half, data.Streamed)
            assert half.labels.tolist() == [0, 0, 0, 1, 1, 1]
            assert half.classes == ("a", "b")
        assert split.test.files[4] == tmp_path / "test" / "b" / "1.png"

    def test_stays_in_memory_up_to_the_limit(self, tmp_path, monkeypatch):
        self.write(tmp_path)
        monkeypatch.setattr("fastat.data.folder._MOST_BYTES", 6 * 4 * 3 * 12)
        assert isinstance(data.load(f"folder:{tmp_path}").train, data.Dataset)

    def test_the_test_half_may_be_called_val(self, tmp_path):
        self.write(tmp_path)
        before = data.load(f"folder:{tmp_path}")
        (tmp_path / "test").rename(tmp_path / "val")
        after = data.load(f"folder:{tmp_path}")
        assert torch.equal(before.test.images, after.test.images) and before.test.classes == after.test.classes

    def test_missing_split(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"train is missing or empty; put the images in"):
            data.load(f"folder:{tmp_path}")

    def test_empty_class(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "train" / "c").mkdir()
        (tmp_path / "test" / "c").mkdir()
        with pytest.raises(FileNotFoundError, match=r"train/c holds no images"):
            data.load(f"folder:{tmp_path}")

    def test_splits_must_agree_on_the_classes(self, tmp_path):
        self.write(tmp_path)
        (tmp_path / "test" / "zebra").mkdir()
        with pytest.raises(ValueError, match="same classes: zebra"):
            data.load(f"folder:{tmp_path}")


class TestDataset:
    def test_unknown_name(self):
        known = "digits, mnist, fashion-mnist, cifar10, cifar100, svhn, tiny-imagenet, imagenet"
        known += ", folder:PATH, tensors:FILE.npz, package.module:function"
        with pytest.raises(ValueError, match=f"data must be one of {known}, got 'cifar'"):
            data.load("cifar")
        for name in (*data.names(), "folder:x", "tensors:x.npz"):
            data.check_name(name)

    def test_subset_is_seeded_and_keeps_ids(self):
        dataset = data.load("digits").train
        some = dataset.subset(100, seed=1)
        assert len(some) == 100
        assert some.ids.equal(dataset.subset(100, seed=1).ids)
        assert not some.ids.equal(dataset.subset(100, seed=2).ids)
        place = int((dataset.ids == some.ids[7]).nonzero())
        assert some.images[7].equal(dataset.images[place])
        assert dataset.subset(None, 0) is dataset
        assert dataset.subset(10_000, 0) is dataset
        with pytest.raises(ValueError, match="got size 0"):
            dataset.subset(0, 0)

    def test_batches_are_the_images_in_order(self):
        dataset = data.load("digits").train
        positions = torch.randperm(len(dataset))[:70]
        found = list(dataset.batches(positions, 32))
        assert [len(batch.y) for batch in found] == [32, 32, 6]
        x, y, ids = (torch.cat(parts) for parts in zip(*found, strict=True))
        assert x.equal(dataset.images[positions] / 16)
        assert y.equal(dataset.labels[positions])
        assert ids.equal(dataset.ids[positions])
        assert list(dataset.batches(positions[:0], 32)) == []
        assert dataset.load() is dataset

    def test_batches_are_augmented_by_id(self):
        dataset = data.load("digits").train
        positions, changed = torch.arange(60), data.Augmentation("crop-flip", cutout=3, seed=5, epoch=2)
        whole = next(dataset.batches(positions, 60, changed)).x
        assert not whole.equal(dataset.images[:60] / 16)
        pieces = [batch.x for batch in dataset.take(positions.flip(0)).batches(positions, 7, changed)]
        assert torch.cat(pieces).flip(0).equal(whole)

    def test_statistics_are_exact(self):
        dataset = make_dataset("x", images(50, 3, 5, 5), torch.zeros(50, dtype=torch.int64), ("a",))
        mean, std = channel_statistics(dataset)
        pixels = dataset.images.double().transpose(0, 1).flatten(1) / 255
        assert mean == pytest.approx(pixels.mean(1).tolist(), rel=1e-12)
        assert std == pytest.approx(pixels.std(1, correction=0).tolist(), rel=1e-12)

    def test_a_constant_channel_does_not_divide_by_zero(self):
        black = make_dataset("x", torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.zeros(2).long(), ("a",))
        assert channel_statistics(black) == ([0.0], [1.0])

    @pytest.mark.parametrize(
        ("pictures", "labels", "message"),
        [
            (torch.zeros(2, 1, 2, 2).double(), torch.zeros(2).long(), "images must be uint8 or float32"),
            (images(2, 1, 2, 2), torch.zeros(3).long(), "labels must be int64"),
            (images(2, 1, 2, 2), torch.tensor([0, 1]), r"labels must be in 0\.\.0, got 0\.\.1"),
            (images(0, 1, 2, 2), torch.zeros(0).long(), "no images"),
        ],
    )
    def test_rejects(self, pictures, labels, message):
        with pytest.raises(ValueError, match=message):
            make_dataset("x", pictures, labels, ("a",))


class TestFlipLabels:
    def test_fraction_and_classes(self):
        train = data.load("digits").train
        noisy = flip_labels(train, 0.1, seed=3)
        changed = noisy.labels != train.labels
        assert int(changed.sum()) == round(0.1 * len(train)) == 144
        assert noisy.images is train.images
        assert (int(noisy.labels.min()), int(noisy.labels.max())) == (0, 9)
        assert flip_labels(train, 0.0, 3) is train
        assert flip_labels(train, 1.0, 3).labels.ne(train.labels).all()

    def test_other_classes_are_equally_likely(self):
        many = make_dataset("x", images(1, 1, 1, 1).expand(50_000, 1, 1, 1), torch.full((50_000,), 2), tuple("abcde"))
        counts = flip_labels(many, 0.8, seed=0).labels.bincount(minlength=5)
        assert int(counts[2]) == 10_000
        assert float((counts[[0, 1, 3, 4]] - 10_000).abs().max()) < 5 * 10_000**0.5

    def test_depends_on_seed_and_ids_not_on_the_order(self):
        train = data.load("digits").train
        noisy = flip_labels(train, 0.2, seed=3)
        assert noisy.labels.equal(flip_labels(train, 0.2, seed=3).labels)
        assert not noisy.labels.equal(flip_labels(train, 0.2, seed=4).labels)
        order = torch.randperm(len(train))
        assert flip_labels(train.take(order), 0.2, seed=3).labels.equal(noisy.labels[order])

    def test_rejects(self):
        train = data.load("digits").train
        with pytest.raises(ValueError, match=r"must be in \[0, 1\], got 1.5"):
            flip_labels(train, 1.5, 0)
        one = make_dataset("x", images(4, 1, 1, 1), torch.zeros(4).long(), ("a",))
        with pytest.raises(ValueError, match="x cannot be flipped: it has one class"):
            flip_labels(one, 0.5, 0)
