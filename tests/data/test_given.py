"""Data of one's own: what is taken, what it becomes, and what is refused with which words."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from fastat import data
from fastat.data import Augmentation, Dataset, Mapped, as_dataset, dataset_digest, held_out, with_classes

X = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 4


class Samples(TorchDataset):
    """Samples whose transforms draw from all three global generators, if asked to."""

    classes = ("a", "b", "c", "d")

    def __init__(self, n=600, draws=True):
        self.n, self.draws = n, draws

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        x = torch.full((2, 3), index / self.n)
        if self.draws:
            x = x + torch.stack([torch.rand(()), torch.tensor(random.random()), torch.tensor(np.random.rand()).float()])
        return x, index % 4


@pytest.mark.parametrize(
    "given",
    [
        (X, Y), (X.numpy(), Y.numpy()), [X, Y], (X.double(), Y.int()), TensorDataset(X, Y), (X.numpy(), Y),
        list(zip(X, Y.tolist(), strict=True)), [(x.numpy(), y.numpy()) for x, y in zip(X, Y, strict=True)],
        Subset(TensorDataset(X, Y), range(20)),
    ],
)  # fmt: skip
def test_forms_of_the_same_samples(given):
    found = as_dataset(given, "train_set")
    assert isinstance(found, Dataset)
    assert found.images.equal(X) and found.labels.equal(Y) and found.ids.tolist() == list(range(20))
    assert (found.scale, found.classes, found.image_shape) == (1, ("0", "1", "2", "3"), (3, 6, 6))


@pytest.mark.parametrize("shape", [(7,), (1, 30), (2, 3, 4, 5)])
def test_samples_of_any_shape(shape):
    found = as_dataset((torch.rand(8, *shape), torch.arange(8)), "x")
    assert found.image_shape == shape and found.pixels().shape == (8, *shape)
    mean, deviation = data.channel_statistics(found)
    assert len(mean) == len(deviation) == shape[0]


def test_pictures_and_bytes_are_pixels_in_0_1():
    stored = (255 * X).to(torch.uint8)
    pictures = [(Image.fromarray(x.permute(1, 2, 0).numpy()), int(y)) for x, y in zip(stored, Y, strict=True)]
    for given in (pictures, (stored, Y), (stored.numpy(), Y.numpy())):
        found = as_dataset(given, "x")
        assert found.images.equal(stored) and found.pixels().equal(stored.float() / 255)


def test_names():
    assert as_dataset(Samples(draws=False), "x").classes == ("a", "b", "c", "d")
    assert as_dataset(Samples(draws=False), "x").title == "Samples"
    assert as_dataset((X, Y), "x", title="mine", classes=["w", "x", "y", "z"]).classes == ("w", "x", "y", "z")
    assert with_classes(as_dataset((X, Y), "x"), range(5)).classes == ("0", "1", "2", "3", "4")
    with pytest.raises(ValueError, match=r"own data has the label 3, there are classes 0..1"):
        with_classes(as_dataset((X, Y), "x"), ["a", "b"])


def test_what_draws_is_read_in_every_epoch():
    assert isinstance(as_dataset(Samples(draws=False), "x"), Dataset)
    assert isinstance(as_dataset(Samples(draws=False), "x", in_memory=False), Mapped)
    found = as_dataset(Samples(), "x")
    assert isinstance(found, Mapped) and isinstance(as_dataset(Samples(), "x", in_memory=True), Dataset)

    def read(source, order, size, epoch):
        parts = list(source.batches(order, size, Augmentation(seed=1, epoch=epoch)))
        return [torch.cat(columns) for columns in zip(*parts, strict=True)]

    order = torch.randperm(600, generator=torch.Generator().manual_seed(1))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    alone = as_dataset(Samples(), "x", workers=0)
    x, y, _ = read(alone, torch.arange(600), 64, 3)
    # nobody else's random numbers are used up
    assert torch.get_rng_state().equal(before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]
    for source in (found, alone):  # by workers too, in any order and batches
        x_, y_, ids_ = read(source, order, 100, 3)
        assert x_.equal(x[order]) and y_.equal(y[order]) and ids_.equal(order)
    assert not bool(torch.isclose(read(alone, order, 64, 4)[0], x[order]).any())
    part = alone.take(torch.tensor([5, 300, 7]))
    assert read(part, torch.tensor([2, 0]), 2, 3)[0].equal(x[[7, 5]])


def test_what_training_takes_from_a_dataset_that_is_read():
    found = as_dataset(Samples(), "x")
    rest, apart = held_out(found, 40)
    assert (len(rest), len(apart)) == (560, 40) and not set(rest.ids.tolist()) & set(apart.ids.tolist())
    assert apart.load().images.equal(apart.load().images) and apart.load().labels.equal(apart.ids % 4)
    assert dataset_digest(found) == dataset_digest(as_dataset(Samples(), "x", workers=0))
    assert dataset_digest(found) != dataset_digest(rest) != dataset_digest(as_dataset(Samples(500), "x"))
    mean, deviation = data.channel_statistics(found)
    assert len(mean) == 2 and all(0.9 < value < 1.1 for value in mean) and all(value > 0 for value in deviation)
    with pytest.raises(ValueError, match="labels of Samples cannot be flipped: it is read as it is needed"):
        data.flip_labels(found, 0.1, 0)


class Endless(IterableDataset):
    def __iter__(self):
        yield X[0], 0


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (DataLoader(TensorDataset(X, Y)), TypeError, r"x must have items .* got DataLoader: pass its \.dataset"),
        (Endless(), TypeError, "got Endless: pass a map-style one, with __getitem__ and __len__"),
        (5, TypeError, r"x must be a Dataset of torch \(map-style\), or a pair \(x, y\).*got int"),
        ([], ValueError, "x is empty"),
        ((X[:0], Y[:0]), ValueError, r"x: x must be \[N, ...\] with N >= 1, got \[0, 3, 6, 6\]"),
        ((X, Y[:5]), ValueError, r"x: y must be integers \[20\], one per sample, got torch.int64 \[5\]"),
        ((X, Y.float()), ValueError, r"y must be integers \[20\], one per sample, got torch.float32 \[20\]"),
        ((X, torch.eye(20)), ValueError, r"y must be integers \[20\]"),
        ((X, Y - 1), ValueError, r"x: labels must be in 0..2, got -1..2"),
        ((X.int(), Y), ValueError, "values must be floating-point, or uint8 of pixels from 0 to 255, got torch.int32"),
        ((X / 0, Y), ValueError, "x: x must be finite"),
        ((torch.rand(4, 8, 8, 3), Y[:4]), ValueError, r"channels last: pass x of \[N, C, H, W\]"),
        ([(torch.rand(8, 8, 3), 0)], ValueError, r"channels last: return \[C, H, W\]"),
        ([(X[0], 0, 1)], ValueError, r"x: sample 0 must be a pair \(x, label\), got a tuple of 3"),
        ([{"image": X[0]}], ValueError, r"x: sample 0 must be a pair \(x, label\), got dict"),
        ([(X[0], 0.5)], ValueError, r"sample 0 must have an integer label, got 0.5"),
        ([(X[0], torch.zeros(3))], ValueError, r"sample 0 must have an integer label, got \[3\] of torch.float32"),
        ([("a", 0)], ValueError, "sample 0 must hold a tensor, an array or an image"),
        ([(X[0], 0), (X[0, :, 1:], 0)], ValueError, r"sample 1 has the shape \[3, 5, 6\], sample 0 \[3, 6, 6\]"),
        ([(X[0], 0), (X[0], -1)], ValueError, "x: sample 1 has the label -1"),
    ],
)  # fmt: skip
def test_what_is_refused(given, error, said):
    with pytest.raises(error, match=said):
        as_dataset(given, "x")
    with pytest.raises(ValueError, match="workers must be a number of processes, at least 0, got -1"):
        as_dataset((X, Y), "x", workers=-1) if isinstance(given, int) else as_dataset(Samples(), "x", workers=-1)


def test_a_bad_sample_is_named_by_workers_too():
    class Bad(Samples):
        def __getitem__(self, index):
            x, label = super().__getitem__(index)
            return x, 9 if index == 400 else label

    source = as_dataset(Bad(), "x")
    with pytest.raises(ValueError, match=r"^sample 400 has the label 9, classes are 0..3$"):
        list(source.batches(torch.arange(600), 64))


def test_pairs_for_the_command_line(monkeypatch, tmp_path):
    (tmp_path / "my_data.py").write_text(
        "import torch\n"
        "def pairs():\n    x = torch.rand(9, 5)\n    return (x, torch.arange(9) % 3), (x[:3], torch.arange(3) % 2)\n"
        "def one():\n    return torch.rand(3)\n"
        "def other():\n    x = torch.rand(9, 5)\n    return (x, torch.arange(9)), (x[:, 1:], torch.arange(9))\n"
        "def bad():\n    return (torch.rand(9, 5), torch.rand(9)), 3\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    split = data.load("my_data:pairs")
    assert split.test.classes == split.train.classes == ("0", "1", "2") and split.train.image_shape == (5,)
    assert data.is_own("my_data:pairs") and not data.is_own("folder:pairs") and not data.is_own("digits")
    for name, said in (
        ("one", r"my_data:one must return a pair \(train, test\) of datasets, got Tensor"),
        ("other", r"my_data:other: train has samples of \(5,\), test of \(4,\)"),
        ("bad", r"my_data:bad: train: y must be integers"),
    ):
        with pytest.raises(ValueError, match=said):
            data.load(f"my_data:{name}")
