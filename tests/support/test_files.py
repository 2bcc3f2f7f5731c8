"""Files of a run: whole or not at all, and no code in a checkpoint."""

import json
import os

import pytest
import torch

from fastat.support import files as checkpoint
from fastat.support.files import load_checkpoint, save_checkpoint, write_bytes, write_json, write_json_lines


def test_round_trip(tmp_path):
    path = tmp_path / "c.pt"
    state = {"weight": torch.randn(3), "nested": {"lr": 0.1, "names": ["a"]}, "step": 7, "none": None}
    save_checkpoint(path, state)
    found = load_checkpoint(path)
    assert found.pop("weight").equal(state.pop("weight"))
    assert found == state
    assert torch.load(path, weights_only=True)["step"] == 7


def test_missing_and_broken(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*c\.pt"):
        load_checkpoint(tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes(b"rubbish")
    with pytest.raises(ValueError, match=r"c\.pt is not a checkpoint that can be read"):
        load_checkpoint(tmp_path / "c.pt")
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(ValueError, match="holds a list"):
        load_checkpoint(tmp_path / "c.pt")


def test_code_in_a_checkpoint_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    torch.save({"model": Evil()}, tmp_path / "c.pt")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c.pt")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def fail(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint.os, call, fail)
        with pytest.raises(OSError, match="disk full"):
            write_bytes(path, b"new content")
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(checkpoint.os, "fsync", lambda handle: (order.append("sync"), fsync(handle)))
    monkeypatch.setattr(checkpoint.os, "replace", lambda *names: (order.append("rename"), replace(*names)))
    write_bytes(tmp_path / "file", b"x")
    assert order == ["sync", "rename", "sync"]  # the last one is the folder's


def test_json(tmp_path):
    write_json(tmp_path / "a.json", {"eps": 8 / 255})
    assert json.loads((tmp_path / "a.json").read_text()) == {"eps": 8 / 255}
    write_json_lines(tmp_path / "a.jsonl", [{"a": 1}, {"a": 2}])
    assert (tmp_path / "a.jsonl").read_text() == '{"a": 1}\n{"a": 2}\n'
