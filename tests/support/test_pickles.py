"""Checkpoints that ask for memory beyond their bytes are refused, whatever they hold besides is read."""

import io
import pickle
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

from fastat.support.files import load_checkpoint

START = b"\x80\x02}X\x01\x00\x00\x00a"
END = b"s."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def archive(pickled: bytes, name: str = "data.pkl") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as new:
        for member, content in ((name, pickled), ("version", b"3\n"), ("byteorder", b"little")):
            new.writestr(f"archive/{member}", content)
    return made.getvalue()


def many(called: bytes, given: bytes, times: int = 200) -> bytes:
    """A list of what many calls return, all of the same large thing, which stands in the file once."""
    return b"](" + called + b"q\x01" + given + b"q\x02" + b"h\x01h\x02\x85R" * times + b"e"


NUMBERS = b"](" + b"K\x01" * 2000 + b"e"
PAIRS = b"](" + b"K\x01K\x02\x86" * 2000 + b"e"
BOMBS = {
    "bytes encoded again and again": b"c_codecs\nencode\n" * 5
    + text("a" * 100) + text("latin1") + b"\x86R" + (text("hex") + b"\x86R") * 4,
    "a bytearray": b"c__builtin__\nbytearray\n" + number(1 << 20) + b"\x85R",
    "a tensor": b"ctorch\nTensor\n" + number(1000) + number(1000) + b"\x86R",
    "a storage": b"ctorch.storage\nUntypedStorage\n" + number(1 << 20) + b"\x85R",
    "a new storage": b"ctorch.storage\nUntypedStorage\n" + number(1 << 20) + b"\x85\x81",
    "a typed storage": b"ctorch.storage\nTypedStorage\n" + number(1 << 20) + b"\x85R",
    "many sizes": many(b"ctorch\nSize\n", NUMBERS),
    "many sets": many(b"c__builtin__\nset\n", NUMBERS),
    "many dicts": many(b"ccollections\nOrderedDict\n", PAIRS),
    "many counters": many(b"ccollections\nCounter\n", NUMBERS),
    "many attributes": b"](}(" + b"".join(text(f"a{n}") + b"K\x01" for n in range(2000)) + b"uq\x01"
    + b"ccollections\nOrderedDict\n)Rh\x01b" * 200 + b"e",
    "much text": b"](c_codecs\nencode\nq\x01" + text("a" * 5000) + b"q\x02" + text("latin1") + b"q\x03"
    + b"h\x01h\x02h\x03\x86R" * 200 + b"e",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["data.pkl", "DATA.PKL"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_may_take_any_memory_is_refused(tmp_path, bomb, name):
    file = tmp_path / "a.pt"
    file.write_bytes(archive(START + BOMBS[bomb] + END, name))
    with pytest.raises(ValueError, match=r"a\.pt is not a checkpoint that can be read \(it (asks|calls|copies)"):
        load_checkpoint(file)


@pytest.mark.filterwarnings("ignore")
def test_torch_would_have_read_them(tmp_path):
    """Else the test above would be one of files that are merely broken."""
    read = 0
    for pickled in BOMBS.values():
        (tmp_path / "a.pt").write_bytes(archive(START + pickled + END))
        try:
            torch.load(tmp_path / "a.pt", weights_only=True)
            read += 1
        except pickle.UnpicklingError:
            pass
    assert read == len(BOMBS)


def legacy(size: tuple[int, ...]) -> bytes:
    """A file as torch wrote it before 1.6, of a tensor of four numbers, or one of another size that has none."""
    made = io.BytesIO()
    torch.save({"w": torch.arange(4.0)}, made, _use_new_zipfile_serialization=False)
    own = b"K\x04\x85q"
    assert made.getvalue().count(own) == 1
    if size == (4,):
        return made.getvalue()
    start, keys, _ = made.getvalue().rpartition(b"\x80\x02]")
    return start.replace(own, b"".join(map(number, size)) + b"\x85q") + keys + b"."


def test_a_file_of_an_old_torch_is_read_and_what_it_lacks_is_not_taken(tmp_path):
    file = tmp_path / "a.pt"
    file.write_bytes(legacy((4,)))
    assert load_checkpoint(file)["w"].equal(torch.arange(4.0))
    file.write_bytes(legacy((1 << 24,)))
    assert torch.load(file, weights_only=True)["w"].shape == (1 << 24,)
    with pytest.raises(ValueError, match=r"a\.pt is not .* \(its tensors claim more than the file has"):
        load_checkpoint(file)
    first = b"\x80\x02" + b"".join(BOMBS["bytes encoded again and again"].splitlines(keepends=True)) + b"."
    file.write_bytes(first + legacy((4,)))
    with pytest.raises(ValueError, match=r"it calls _codecs\.encode"):
        load_checkpoint(file)


def test_what_checkpoints_hold_is_read(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = {
            "model": model.state_dict(), "optimizer": optimizer.state_dict(),
            "parameters": dict(model.named_parameters()), "shared": [model[0].weight, model[0].weight],
            "half": torch.ones(2).half(), "small": torch.ones(2).byte(),
            "unsigned": torch.ones(2, dtype=torch.uint16), "float8": torch.ones(2).to(torch.float8_e5m2),
            "sparse": torch.eye(3).to_sparse(), "meta": torch.ones(2, device="meta"), "view": torch.arange(9.0)[2:7:2],
            "random": torch.get_rng_state(), "size": torch.Size([1, 2]), "dtype": torch.float32, "complex": 1j,
            "device": torch.device("cpu"), "set": {1, 2}, "counter": Counter("aab"), "ordered": OrderedDict(a=1),
            "bytes": b"\x00\xffa", "text": "bytearray\n", "none": None, "nested": [({"a": (1, 2.5, True)},)],
        }  # fmt: skip
        torch.save(state, tmp_path / "new.pt")
        found = load_checkpoint(tmp_path / "new.pt")
    assert found.keys() == state.keys()
    for name in ("size", "dtype", "complex", "device", "set", "counter", "ordered", "bytes", "text", "nested"):
        assert found[name] == state[name]
    assert found["view"].equal(torch.tensor([2.0, 4.0, 6.0]))


class Kept:
    """Of a caller, who told torch to trust it."""

    def __init__(self) -> None:
        self.value = 3


def test_what_the_caller_has_told_torch_to_trust_is_read(tmp_path):
    file = Path(tmp_path / "a.pt")
    torch.save({"kept": Kept()}, file)
    with pytest.raises(ValueError, match=r"it asks for test_pickles\.Kept"):
        load_checkpoint(file)
    with torch.serialization.safe_globals([Kept]):
        assert load_checkpoint(file)["kept"].value == 3
