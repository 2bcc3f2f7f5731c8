"""Whatever stands in a file that a command reads, it works or ends in one line that names the file."""

import json
import shutil
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from damage import contents, with_wrong_fields
from killing import Killed, kill_at_step

from fastat.cli import main, reading
from fastat.report import page
from fastat.support.files import load_checkpoint, save_checkpoint
from fastat.training import loop

TINY = [
    "train", "--data", "digits", "--model", "mlp", "--width", "16", "--epochs", "2", "--attack-steps", "1", "--quiet",
    "--batch-size", "32", "--train-size", "64", "--eval-size", "8", "--val-size", "16", "--checkpoint-every", "0",
]  # fmt: skip
SMALL = ["random-features", "--eps", "3/10", "--points", "5", "--simulated-psi1", "1", "--radius-psi1", "1"]
SMALL += ["--radius-parts", "0.5", "--d", "10", "--trials", "2", "--jobs", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Folders that nothing changes: a finished run, the same before its end, another one, and an experiment."""
    root = tmp_path_factory.mktemp("made")
    main([*TINY, "--out", str(root / "whole")])
    main([*TINY, "--seed", "1", "--out", str(root / "other")])
    with pytest.MonkeyPatch.context() as patched:
        kill_at_step(patched, 3)
        with pytest.raises(Killed):
            main([*TINY, "--out", str(root / "half")])
    for name in ("whole", "half"):
        assert (root / name / "best.pt").exists()
    main(["theory", *SMALL, "--out", str(root / "theory")])
    return root


@pytest.fixture
def quick(monkeypatch) -> None:
    """Commands read their files, and then neither train nor evaluate nor compute nor draw; equal command lines are read
    once."""
    monkeypatch.setattr(page, "_page", lambda runs: "")
    monkeypatch.setattr("fastat.report.html.render", lambda *_, **values: "")
    monkeypatch.setattr(loop, "take_step", stop)
    monkeypatch.setattr("fastat.cli.train.evaluate_network", lambda *_: None)
    monkeypatch.setattr("fastat.cli.evaluate.evaluate_network", lambda *_: None)
    monkeypatch.setattr("fastat.theory.sweep._run_one", stop)
    parse, once = reading.parse, lru_cache(lambda given: parse(list(given)))
    monkeypatch.setattr(reading, "parse", lambda given: parse(given) if "--config" in given else once(tuple(given)))


class Stopped(KeyboardInterrupt):
    """Where a command has read all its files."""


def stop(*_: object) -> None:
    raise Stopped


def outcome(arguments: Sequence[str], place: Path) -> str:
    """What the command says of its end: nothing, or one line, which names the place."""
    shutil.rmtree(place / "new", ignore_errors=True)
    try:
        main(arguments)
    except SystemExit as ended:
        if ended.code in (130, 143):  # it was stopped, having read all its files
            return ""
        text = str(ended.args[0])
        assert text.startswith("error: ") and len(text.splitlines()) == 1 and len(text) < 2000, text
        assert str(place) in text or text == "error: --init: no checkpoint at text", text
        return text
    return ""


def train(folder: Path) -> list[str]:
    return [*TINY, "--out", str(folder)]


def evaluate(folder: Path, *more: str) -> list[str]:
    return ["evaluate", str(folder), "--quiet", *more]


def report(folder: Path) -> list[str]:
    return ["report", str(folder), "--out", str(folder.parent / "page.html")]


def page_of(folder: Path) -> list[str]:
    return ["theory", "page", str(folder), "--out", str(folder / "page.html")]


def start_from(folder: Path) -> list[str]:
    return [*TINY, "--init", str(folder / "best.pt"), "--out", str(folder / "new")]


COMMANDS: dict[str, tuple[str, str, Callable[[Path], list[str]]]] = {
    "report config": ("whole", "config.json", report),
    "report metrics": ("whole", "metrics.jsonl", report),
    "report results": ("whole", "results.json", report),
    "report environment": ("whole", "environment.json", report),
    "train config": ("half", "config.json", train),
    "train caller": ("half", "caller.json", train),
    "train checkpoint": ("half", "checkpoint.pt", train),
    "show results": ("whole", "results.json", train),
    "evaluate config": ("whole", "config.json", evaluate),
    "evaluate metrics": ("whole", "metrics.jsonl", evaluate),
    "evaluate best": ("whole", "best.pt", lambda folder: evaluate(folder / "best.pt")),
    "evaluate last": ("whole", "checkpoint.pt", lambda folder: evaluate(folder, "--which", "last")),
    "theory settings": ("theory", "settings.json", lambda folder: ["theory", *SMALL, "--out", str(folder)]),
    "theory cell": ("theory", "cells/*.json", lambda folder: ["theory", *SMALL, "--out", str(folder)]),
    "theory page": ("theory", "results.json", page_of),
    "config": ("half", "config.json", lambda folder: [*TINY, "--config", str(folder / "config.json")]),
    "weights": ("whole", "best.pt", start_from),
    "other weights": ("whole", "best.pt", lambda f: evaluate(f / "best.pt", "--model", "mlp", "--data", "digits")),
}  # fmt: skip


MENDED = ("train config", "train caller", "show results", "evaluate config", "evaluate metrics")
"""Where the checkpoint, or measuring again, has what a broken file has not."""
FREE = {
    "report metrics": "images_per_second steps train.skipped lr train.loss",
    "report results": "by_class.images by_class.images.0 curve.images epochs figures figures.0 model protocol seconds "
    "seconds_per_epoch seed training",
    "report config": "awp_warmup clip_grad ema_decay eps_warmup init label_noise lr milestones.0 momentum swa_start "
    "weight_decay",
    "train checkpoint": "average caller classes closing delta environment hits image_shape losses seconds sound "
    "stopped title unsaved",
    "evaluate best": "caller title",
    "evaluate last": "average averaged caller closing delta environment findings hits losses optimizer seconds sound "
    "step stopped title unsaved watch",
    "weights": "caller classes config epoch history image_shape title",
    "other weights": "caller classes config epoch history image_shape title",
}
"""Fields of which another value need not be refused: the command does not use them, or it may be a genuine one."""
OBJECTS = ("config.json", "metrics.jsonl", "results.json", "environment.json", "caller.json", "settings.json")


def copied(made: Path, tmp_path: Path, name: str) -> tuple[Path, Path, list[str]]:
    """A copy of the folder of a command, its file, and the command."""
    kind, file, command = COMMANDS[name]
    folder = tmp_path / kind
    shutil.copytree(made / kind, folder)
    found = next(iter(sorted(folder.glob(file))), folder / file)
    return folder, found, command(folder)


@pytest.mark.parametrize("name", COMMANDS)
def test_another_content_is_one_line(made, tmp_path, quick, name):
    folder, file, command = copied(made, tmp_path, name)
    whole = file.read_bytes() if file.exists() else b"{}"
    assert outcome(command, folder) == ""
    for what, content in contents(whole).items():
        shutil.rmtree(folder)
        shutil.copytree(made / folder.name, folder)
        file.write_bytes(content)
        said = outcome(command, folder)
        harmless = what in ("empty", "object") or name in MENDED
        assert said or harmless, f"{what} was taken for {file.name}"


@pytest.mark.parametrize("name", [name for name, (*_, file, _) in COMMANDS.items() if file in OBJECTS])
def test_a_field_of_another_kind_is_one_line(made, tmp_path, quick, name):
    folder, file, command = copied(made, tmp_path, name)
    if name == "train caller":
        file.write_text(json.dumps({"images": "x", "front": "y"}))
    lines = file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    refused, taken = 0, set()
    for what, text in with_wrong_fields(json.loads(lines[0])):
        file.write_text("\n".join([text, *lines[1:]]) + "\n")
        try:
            said = outcome(command, folder)
        except Exception as error:
            raise AssertionError(f"{what} in {file.name}: {type(error).__name__}: {error}") from error
        refused += said != ""
        taken |= set() if said else {what.partition(" = ")[0]}
    assert refused > 0 or name in MENDED
    if name in FREE:
        assert taken <= set(FREE[name].split())


@pytest.mark.parametrize("name", ["train checkpoint", "evaluate best", "evaluate last", "weights", "other weights"])
def test_a_field_of_a_checkpoint_of_another_kind_is_one_line(made, tmp_path, quick, name):
    folder, file, command = copied(made, tmp_path, name)
    whole = load_checkpoint(file)
    others = ("text", [[]], {}, {"a": 1}, None, 10**5000, float("nan"), torch.zeros(3), -1, True)
    taken = set()
    for field in whole:
        for other in others:
            save_checkpoint(file, {**whole, field: other})
            try:
                taken |= set() if outcome(command, folder) else {field}
            except Exception as error:
                raise AssertionError(f"{field} = {type(other)!s}: {type(error).__name__}: {error}") from error
        save_checkpoint(file, {name: value for name, value in whole.items() if name != field})
        outcome(command, folder)
    assert taken <= set(FREE[name].split())


@pytest.mark.parametrize("name", ["train checkpoint", "evaluate best", "evaluate last"])
def test_a_checkpoint_of_something_else_is_not_taken(made, tmp_path, quick, name):
    folder, file, command = copied(made, tmp_path, name)
    state = load_checkpoint(file)["model"]
    kind = "checkpoint.pt" if file.name == "best.pt" else "best.pt"
    cases = {
        "another run's": made / "other" / file.name,
        "the other file of the run": made / folder.name / kind,
        "weights alone": save_checkpoint(tmp_path / "alone.pt", state) or tmp_path / "alone.pt",
    }
    for what, source in cases.items():
        shutil.copy(source, file)
        assert outcome(command, folder), f"{what} was taken for {file.name}"


def test_the_best_network_of_another_run_is_not_taken(made, tmp_path, quick):
    """By a run that ends: its last epoch is not its best."""
    shutil.copytree(made / "whole", tmp_path / "whole")
    folder, best = tmp_path / "whole", tmp_path / "whole" / "best.pt"
    (folder / "results.json").unlink()
    saved = load_checkpoint(folder / "checkpoint.pt")
    saved["history"][0]["val"]["pgd-20"], saved["history"][1]["val"]["pgd-20"] = 1.0, 0.0
    save_checkpoint(folder / "checkpoint.pt", saved)
    own = load_checkpoint(best)
    save_checkpoint(best, {**own, "epoch": 1})
    assert outcome(train(folder), folder) == ""
    other = load_checkpoint(made / "other" / "best.pt")
    for state in ({**other, "epoch": 1}, {**own, "epoch": 2}, {**saved, "epoch": 1}, {"w": torch.ones(1)}):
        save_checkpoint(best, state)
        assert "best.pt" in outcome(train(folder), folder)
