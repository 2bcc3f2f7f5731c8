"""CIFAR's pickled batches: what was ever written is read, and a hostile file does nothing but raise."""

import os
import pickle
import random
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from fastat import data
from fastat.data.cifar_pickle import read_batch

N = 4
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 3072), dtype=np.uint8)
LABELS = [0, 9, 3, 5]


def length(content: bytes) -> bytes:
    return struct.pack("<I", len(content))


def python2_batch(
    content: bytes = IMAGES.tobytes(),
    dtype: bytes = b"u1",
    shape: bytes = b"K\x04M\x00\x0c\x86",
    labels: bytes = b"".join(b"K" + bytes([label]) for label in LABELS),
) -> bytes:
    """A batch as Python 2 and the numpy of its time wrote the genuine ones: protocol 2, strings of bytes."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01bq\x04\x87q\x05Rq\x06"
        b"(K\x01" + shape + b"q\x07cnumpy\ndtype\nq\x08U" + bytes([len(dtype)]) + dtype + b"q\tK\x00K\x01\x87q\nRq\x0b"
        b"(K\x03U\x01|q\x0cNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\rb\x89T" + length(content) + content
        + b"q\x0etq\x0fb"
    )  # fmt: skip
    names = b"]q\x11(" + b"".join(b"U\x05a.png" for _ in LABELS) + b"e"
    return b"\x80\x02}q\x12(U\x04data" + array + b"U\x06labels]q\x10(" + labels + b"eU\tfilenames" + names + b"u."


def load(folder: Path, content: bytes) -> data.Split:
    """CIFAR-10 of five batches that are sound and one with this content."""
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(exist_ok=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (batches / name).write_bytes(python2_batch())
    (batches / "data_batch_2").write_bytes(content)
    return data.load("cifar10", folder)


def assert_read(split: data.Split) -> None:
    assert split.train.images[N : 2 * N].flatten(1).equal(torch.from_numpy(IMAGES))
    assert split.train.labels[N : 2 * N].tolist() == LABELS


def test_a_genuine_batch_is_read(tmp_path):
    assert_read(load(tmp_path, python2_batch()))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("images", [IMAGES, np.asfortranarray(IMAGES)], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "labels", [LABELS, np.array(LABELS), np.array(LABELS, dtype=">i2")], ids=["list", "<i8", ">i2"]
)
def test_what_todays_numpy_writes_is_read(tmp_path, protocol, images, labels):
    names = [f"{number}.png".encode() for number in range(500)]  # a call each, in the old protocols
    batch = {b"data": images, b"labels": labels, b"filenames": names, b"batch_label": b"two", b"none": None, b"e": 0.5}
    assert_read(load(tmp_path, pickle.dumps(batch, protocol=protocol)))
    assert load(tmp_path, pickle.dumps(batch, protocol=protocol)).train.labels.dtype == torch.int64


class Call:
    """Pickles as a call of the function, then as a state given to what it made."""

    def __init__(self, function, arguments, *state):
        self.made = (function, arguments, *state)

    def __reduce__(self):
        return self.made


def batch_with(images, labels=LABELS) -> bytes:
    return pickle.dumps({b"data": images, b"labels": labels}, protocol=2)


def as_key(key: bytes) -> bytes:
    """A mapping of what these instructions make to 0."""
    return b"\x80\x02}" + key + b"K\x00s."


def doubled(times: int) -> bytes:
    """A list that holds a list twice, which holds a list twice, and so on: what goes through it all never ends."""
    return b"]q\x00" + times * b"0](h\x00h\x00eq\x00"


def out_of_step(hidden: bytes) -> bytes:
    """The unpickler in C drops the rest of a frame that an argument reaches beyond, and goes on within the argument."""
    size = struct.pack("<I", 3 + len(hidden))
    return b"\x80\x04\x95" + struct.pack("<Q", 4) + b"T" + size[:3] + size[3:] + 3 * b"\0" + hidden + b"."


def numpys(module: str, name: str, arguments: bytes) -> bytes:
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + arguments + b"R."


def integer(value: int) -> bytes:
    content = value.to_bytes(16, "little")
    return b"\x8a" + bytes([len(content)]) + content


def long(size: int) -> bytes:
    """An integer of so many bytes."""
    return b"\x8b" + length(b"\x11" * size) + b"\x11" * size


def text(content: bytes) -> bytes:
    """A text as an instruction."""
    return b"X" + length(content) + content


ENCODE = ("_codecs", "encode")
RECONSTRUCT = ("numpy.core.multiarray", "_reconstruct")

HOSTILE = {
    "objects over bytes": (batch_with(Call(np.ndarray, ((2,), np.dtype("O"), b"A" * 16))), "found an array of 'O8'"),
    "numbers over bytes": (batch_with(Call(np.ndarray, ((2,), np.dtype("u1"), b"AA"))), "a call of numpy.ndarray"),
    "objects": (batch_with(np.array([None, "a"])), "found an array of 'O8'"),
    "objects with pointers": (python2_batch(b"A" * 8, b"O8", b"K\x01\x85"), "found an array of 'O8'"),
    "records": (batch_with(np.zeros(3, dtype="u1, u1")), "found an array of 'V2'"),
    "strings": (batch_with(np.array(["ab"])), "found an array of 'U2'"),
    "too few bytes": (python2_batch(b"abc"), "found 3 bytes for an array"),
    "too many bytes": (python2_batch(IMAGES.tobytes() + b"a"), "found 12289 bytes for an array"),
    "a shape beyond memory": (python2_batch(shape=2 * b"J\xff\xff\xff\x7f" + b"\x86"), "found 12288 bytes for"),
    "a negative shape": (python2_batch(shape=2 * b"J\xff\xff\xff\xff" + b"\x86"), "whose shape is not a few sizes"),
    "a shape of texts": (python2_batch(shape=b"U\x01aU\x01b\x86"), "whose shape is not a few sizes"),
    "a shape of many digits": (python2_batch(shape=2 * long(10_000) + b"\x86"), "whose shape is not a few sizes"),
    "no shape": (python2_batch(shape=b"K\x04"), "whose shape is not a few sizes"),
    "many dimensions": (python2_batch(b"a", shape=b"(" + 99 * b"K\x01" + b"t"), "whose shape is not a few sizes"),
    "a long type": (python2_batch(dtype=b"u1" * 50), "whose name is no short text"),
    "a kind of its own": (numpys(*RECONSTRUCT, b"NK\x00\x85U\x01b\x87"), "numpy did not write this way"),
    "another function of numpy": (numpys("numpy", "load", b"U\x01a\x85"), r"found numpy\.load"),
    "numpy's pickle": (numpys("numpy.core.multiarray", "scalar", b")"), r"found numpy\.core\.multiarray\.scalar"),
    "a name that tricks terminals": (b"\x80\x04\x8c\x01\x1b\x8c\x01\n\x93.", r"found \\x1b\.\\n$"),
    "code": (pickle.dumps(Call(os.system, ("true",)), 2), r"found posix\.system"),
    "code by an old instruction": (b"(S'true'\nios\nsystem\n.", "found the instruction b'i'"),
    "an instance": (b"\x80\x02cnumpy\nndarray\n)\x81.", r"found the instruction b'\\x81'"),
    "a registered extension": (b"\x80\x02\x82\x01.", r"found the instruction b'\\x82'"),
    "a persistent id": (b"Pabc\n.", "found the instruction b'P'"),
    "a memo beyond memory": (b"\x80\x02Nr\xff\xff\xff\x7f.", "it holds a NoneType"),
    "a memo of thousands of digits": (b"Np" + 5000 * b"1" + b"\n.", "is not a whole pickle"),
    "a key that overflows the stack": (as_key(b")" + 200_000 * b"\x85"), "keys are not short strings"),
    "a key whose hash never ends": (as_key(b")q\x00" + 60 * b"h\x00h\x00\x86q\x00"), "keys are not short strings"),
    "keys of one hash": (
        b"\x80\x02}(" + b"".join(integer(k * (2**61 - 1)) + b"N" for k in range(50_000)) + b"u.", "keys are not short",
    ),
    "a long key": (b"\x80\x02}" + text(101 * b"a") + b"Ns.", "keys are not short strings"),
    "places in the memo of one hash": (
        b"N" + b"".join(b"p%d\n" % (k * (2**61 - 1)) for k in range(1, 50_000)) + b"0}.", "of more than 32 bits",
    ),
    "a text that ends early": (text(1000 * b"\xff") + b".", r"is not a whole pickle \(UnicodeDecodeError\): unpack"),
    "a mapping by an old instruction": (b"(K\x00Nd.", "keys are not short strings"),
    "items of a list": (b"\x80\x02]U\x01aNs.", "keys are not short strings"),
    "a program within a string": (out_of_step(as_key(b")" + 200_000 * b"\x85")[2:-1]), "is not a whole pickle"),
    "bytes in a form that never ends": (numpys(*ENCODE, text(b"a") + doubled(60) + b"\x86"), "not encoded as latin1"),
    "a state for a function": (b"\x80\x02c_codecs\nencode\n}(U\x01aK\x01ub.", "found a state for what has none"),
    "a state for a type": (b"\x80\x02cnumpy\nndarray\n}(U\x01aK\x01ub.", "found a state for what has none"),
    "a state for arrays": (b"\x80\x02cnumpy\ndtype\n}(U\x01aK\x01ub.", "is not a whole pickle"),
    "a text in a codec": (numpys(*ENCODE, text(b"a") + text(b"bz2") + b"\x86"), "not encoded as latin1"),
    "one text many times": (
        b"\x80\x02](c_codecs\nencode\nq\x01" + text(1000 * b"a") + text(b"latin1") + b"\x86q\x02R"
        + 100 * b"h\x01h\x02R" + b"e.", "more bytes than there are in the file",
    ),
    "labels in a list that holds itself": (python2_batch(labels=4 * b"h\x10"), "its labels must be integers"),
    "images that are a list": (batch_with(IMAGES.tolist()), "its data must be an array of uint8"),
    "images of another type": (batch_with(IMAGES.astype(np.int64)), "its data must be an array of uint8"),
    "labels that are texts": (batch_with(IMAGES, ["0", "1", "2", "3"]), "its labels must be integers"),
    "labels that are lists": (batch_with(IMAGES, [[0], [1], [2], [3]]), "its labels must be integers"),
    "labels that are true": (batch_with(IMAGES, [True, False, True, False]), "its labels must be integers"),
    "labels that are real": (batch_with(IMAGES, [0.5, 1.5, 2.5, 3.5]), "its labels must be integers"),
    "labels beyond int64": (batch_with(IMAGES, [0, 1, 2, 2**70]), "too large to convert"),
    "no labels": (batch_with(IMAGES, []), r"4 images and labels \[0\]"),
    "too few labels": (batch_with(IMAGES, [0, 1]), r"4 images and labels \[2\]"),
    "a class that is none": (batch_with(IMAGES, [0, 1, 2, 10]), r"labels must be in 0\.\.9, got 0\.\.10"),
    "a negative class": (batch_with(IMAGES, [0, 1, 2, -1]), r"labels must be in 0\.\.9, got -1\.\.2"),
    "an unfinished array": (numpys(*RECONSTRUCT, b"N"), "is not a whole pickle"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_batch_is_refused_in_a_line_that_names_it(tmp_path, name):
    content, message = HOSTILE[name]
    with pytest.raises(ValueError, match=message) as found:
        load(tmp_path, content)
    text = str(found.value)
    assert str(tmp_path / "cifar-10-batches-py" / "data_batch_2") in text
    assert len(text.splitlines()) == 1 and len(text) < 1000


def test_damage_anywhere_is_one_clear_error_or_none(tmp_path):
    """Bytes changed, cut out and doubled at random: what is still a batch loads, everything else is a ValueError."""
    draw, whole, refused = random.Random(0), python2_batch(), []
    framing = [at for at in range(len(whole)) if not 300 < at < len(whole) - 120]  # what is not pixels
    file = tmp_path / "batch"
    for _ in range(3000):
        content = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at = draw.choice(framing)
            change = draw.choice(("set", "cut", "double", "end"))
            if change == "set":
                content[at : at + 1] = bytes([draw.randrange(256)])
            elif change == "end":
                del content[at:]
            else:
                part = content[at : at + draw.randint(1, 8)]
                content[at : at + len(part)] = part + part if change == "double" else b""
        file.write_bytes(content)
        try:
            read_batch(file, "CIFAR-10")
        except ValueError as error:
            refused.append(str(error))
    assert 2000 < len(refused) < 3000
    assert all(text.startswith(f"{file} ") and len(text.splitlines()) == 1 for text in refused)


def test_what_is_no_file_is_refused_not_waited_for(tmp_path):
    for name, make in (("folder", Path.mkdir), ("pipe", os.mkfifo)):
        make(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is not a file"):
            read_batch(tmp_path / name, "CIFAR-10")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "batch").open("wb") as stream:
        stream.truncate(20 << 30)  # takes no room on the disk
    with pytest.raises(ValueError, match=r"batch is too large for a batch of CIFAR-10: more than 256 MiB"):
        read_batch(tmp_path / "batch", "CIFAR-10")


def test_values_that_are_empty_are_read(tmp_path):
    for protocol in range(5):
        batch = {b"data": IMAGES[:0], b"labels": [], b"filenames": [b""]}
        (tmp_path / "batch").write_bytes(pickle.dumps(batch, protocol=protocol))
        found = read_batch(tmp_path / "batch", "CIFAR-10")
        assert found[b"data"].shape == (0, 3072) and found[b"filenames"] == [b""]


@pytest.mark.parametrize(
    "names",
    [None, b"abc", {}, [b"a"] * 99, [b"a"] * 99 + ["b"], [b"a"] * 99 + [b"\x1b[2J"], [b"a" * 101] * 100],
    ids=["none", "bytes", "a mapping", "99", "a text", "what tricks terminals", "long"],
)
def test_names_of_cifar100_that_are_none(tmp_path, names):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, protocol=2))
    with pytest.raises(ValueError, match=r"meta is not that of CIFAR-100: its fine_label_names must be 100 names"):
        data.load("cifar100", tmp_path)


def test_damage_is_one_line_of_the_dataset_too(tmp_path):
    """The same up to the dataset, in all forms that batches have had: bits flipped, parts exchanged, ends lost."""
    draw, outcomes = random.Random(1), []
    batch = {b"data": IMAGES, b"labels": LABELS, b"filenames": [b"a.png"] * N, b"batch_label": b"two"}
    wholes = [python2_batch(), *(pickle.dumps(batch, protocol=protocol) for protocol in range(5))]
    load(tmp_path, wholes[0])
    file = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    for number in range(300):
        whole = wholes[number % len(wholes)]
        content, other = bytearray(whole), draw.choice(wholes)
        for _ in range(draw.randint(1, 5)):
            at = draw.choice((draw.randrange(400), draw.randrange(len(whole)), len(whole) - 1 - draw.randrange(200)))
            at, size = min(at, len(content) - 1), draw.randint(1, 16)
            change = draw.choice(("flip", "set", "cut", "other", "end"))
            if change == "flip":
                content[at] ^= 1 << draw.randrange(8)
            elif change == "set":
                content[at : at + size] = draw.randbytes(size)
            elif change == "cut":
                del content[at : at + size]
            elif change == "other":
                start = draw.randrange(len(other))
                content[at : at + size] = other[start : start + size]
            else:
                del content[max(at, 1) :]
        file.write_bytes(content)
        try:
            data.load("cifar10", tmp_path)
            outcomes.append("")
        except ValueError as error:
            outcomes.append(str(error))
    refused = [text for text in outcomes if text]
    assert 150 < len(refused) < 300
    assert all(text.startswith(f"{file} ") and len(text.splitlines()) == 1 and len(text) < 1000 for text in refused)
