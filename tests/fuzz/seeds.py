"""The readers, and small genuine files of each, which are made here."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

from fastat import data, models
from fastat.data.cifar_pickle import read_batch
from fastat.data.image_files import read_image
from fastat.report import page, whole_results
from fastat.support.files.foreign_json import content_of
from fastat.theory.memorization import scores
from fastat.theory.page import write_theory_page
from fastat.training import TrainConfig, as_fields, history_in, load_network, read_record, with_fields

_PIXELS = np.random.default_rng(0).integers(0, 256, (4, 3, 4, 4), dtype=np.uint8)
_LABELS = np.array([0, 1, 2, 0])


@dataclass(frozen=True)
class Reader:
    """What reads a file.

    Attributes:
        file: its name; what stands before its first dot is in the messages.
        make: genuine contents; may put other files that are needed into the folder.
        read: reads it.
    """

    file: str
    make: Callable[[Path], list[bytes]]
    read: Callable[[Path], Any]


def _cifar(_: Path) -> list[bytes]:
    batch = {b"data": _PIXELS.reshape(4, -1), b"labels": [0, 1, 2, 0], b"filenames": [b"a.png"] * 4}
    return [pickle.dumps(batch, protocol=protocol) for protocol in range(5)]


def _idx(values: np.ndarray) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def _mnist(folder: Path, pack: Callable[[bytes], bytes]) -> list[bytes]:
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    images, labels = _idx(_PIXELS[:, 0]), _idx(_LABELS.astype(np.uint8))
    for prefix in ("train", "t10k"):
        (raw / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    return [pack(images)]


def _svhn(folder: Path) -> list[bytes]:
    content = {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[1], [10]])}
    savemat(folder / "test_32x32.mat", content)
    made = []
    for options in ({}, {"do_compression": True}, {"format": "4"}):
        stream = io.BytesIO()
        savemat(stream, content if "format" not in options else {"X": np.zeros((3, 2)), "y": content["y"]}, **options)
        made.append(stream.getvalue())
    return made


def _npz(arrays: dict[str, Any], *saves: Callable[..., None]) -> list[bytes]:
    made = []
    for save in saves:
        stream = io.BytesIO()
        save(stream, **arrays)
        made.append(stream.getvalue())
    return made


def _tensors(_: Path) -> list[bytes]:
    arrays = {"x_train": _PIXELS, "y_train": _LABELS, "x_test": _PIXELS, "y_test": _LABELS}
    named = arrays | {"classes": np.array(["a", "b", "c"])}
    floats = arrays | {"x_train": _PIXELS / 255, "x_test": _PIXELS / 255}
    both = (np.savez, np.savez_compressed)
    return [content for some in (arrays, named, floats) for content in _npz(some, *both)]


def _scores(folder: Path) -> list[bytes]:
    draw = np.random.default_rng(0)
    outcomes = scores.Outcomes(*(draw.random((4, n)) < 0.5 for n in (6, 6, 3)))
    scores.score(outcomes, np.arange(6), np.arange(3)).save(folder / "seed.npz")
    whole = (folder / "seed.npz").read_bytes()
    with np.load(folder / "seed.npz") as found:
        return [whole, *_npz(dict(found), np.savez)]


def _images(_: Path) -> list[bytes]:
    made = []
    for kind, mode in (("png", "RGB"), ("png", "L"), ("jpeg", "RGB"), ("bmp", "RGB"), ("webp", "RGB"), ("tiff", "RGB")):
        stream = io.BytesIO()
        Image.fromarray(_PIXELS[0].transpose(1, 2, 0)).convert(mode).save(stream, kind)
        made.append(stream.getvalue())
    return made


def _row(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "steps": 2, "lr": 0.1, "train": {"loss": 2.3, "adversarial": 0.1, "skipped": 0},
        "val": {"clean": 0.5, "fgsm": 0.3, "pgd-20": 0.2}, "val_images": 4, "measured": {}, "seconds": 0.5,
        "images_per_second": 9.0, "findings": [{"monitor": "m", "step": 1, "text": "t"}], "stopped": "",
    }  # fmt: skip


_CONFIG = as_fields(with_fields(TrainConfig(), model="mlp", width=4))


def _checkpoint(_: Path) -> list[bytes]:
    network = models.build("mlp", 3, 1, [0.5], [0.2], 4, image_size=(2, 2))
    state = {
        "config": _CONFIG, "title": "digits", "classes": ["a", "b", "c"], "image_shape": [1, 2, 2],
        "model": network.state_dict(), "history": [_row(1)], "epoch": 1,
    }  # fmt: skip
    made = []
    for zipped in (True, False):
        stream = io.BytesIO()
        torch.save(state, stream, _use_new_zipfile_serialization=zipped)
        made.append(stream.getvalue())
    return made


def _weights(file: Path) -> None:
    network = models.build("mlp", 3, 1, [0.5], [0.2], 4, image_size=(2, 2))
    models.load_weights(network, models.read_weights(file), file, other_classes=True)


def _results(file: Path) -> None:
    whole_results(file.parent)  # refuses nothing: what is not whole is measured again
    page._results_in(file.read_bytes())


def _json(value: Any) -> Callable[[Path], list[bytes]]:
    return lambda _: [json.dumps(value, indent=indent).encode() for indent in (None, 2)]


_RESULTS = {
    "dataset": "digits", "model": "mlp", "training": "PGD", "norm": "linf", "eps": 0.1, "test_images": 4, "epochs": 1,
    "epoch": 1, "which": "last", "figures": ["a"], "classes": ["0", "1"],
    "accuracy": {name: {"accuracy": 0.5, "low": 0.4, "high": 0.6} for name in ("clean", "pgd-20")},
    "by_class": {"accuracy": {"clean": [0.5, None], "pgd-20": [0.25, None]}},
    "curve": {"attack": "pgd-20", "eps": [0.0, 0.1], "accuracy": [0.5, 0.25]},
}  # fmt: skip
_THEORY = {
    "experiment": "e", "title": "t", "settings": {"a": [1, 2.5]}, "figures": [], "environment": {"torch": "2"},
    "findings": [{"claim": "c", "verdict": "partly", "evidence": "e"}],
}  # fmt: skip

READERS = {
    "cifar": Reader("wug.batch", _cifar, lambda file: read_batch(file, "CIFAR-10")),
    "mnist": Reader(
        "MNIST/raw/train-images-idx3-ubyte",
        lambda folder: _mnist(folder, bytes),
        lambda file: data.load("mnist", file.parents[2]),
    ),
    "mnist-gz": Reader(
        "MNIST/raw/t10k-images-idx3-ubyte.gz",
        lambda folder: _mnist(folder, gzip.compress),
        lambda file: data.load("mnist", file.parents[2]),
    ),
    "svhn": Reader("train_32x32.mat", _svhn, lambda file: data.load("svhn", file.parent)),
    "tensors": Reader("wug.npz", _tensors, lambda file: data.load(f"tensors:{file}")),
    "scores": Reader("wugs.npz", _scores, scores.load),
    "image": Reader("wug.png", _images, lambda file: read_image(file, "RGB")),
    "network": Reader("wug.pt", _checkpoint, lambda file: load_network(file, "cpu")),
    "weights": Reader("wug.pth", _checkpoint, _weights),
    "config": Reader("wug.json", _json(_CONFIG), read_record),
    "metrics": Reader(
        "wug.jsonl", lambda _: [b"".join(json.dumps(_row(n)).encode() + b"\n" for n in (1, 2))],
        lambda file: history_in(content_of(file), str(file)),
    ),
    "results": Reader("results.json", _json(_RESULTS), _results),
    "theory": Reader(
        "results.json", _json(_THEORY), lambda file: write_theory_page([file.parent], file.with_name("page.html"))
    ),
}  # fmt: skip
