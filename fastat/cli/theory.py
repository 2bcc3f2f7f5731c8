"""The command ``fastat theory``: an experiment, all of them, or the page that shows them."""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, cast, get_args

import joblib

from fastat.cli.reading import read
from fastat.support.files import check_same_settings, write_json
from fastat.theory import DEFAULT_RESOURCES, EXPERIMENTS, FIGURES, Experiment, Resources
from fastat.theory.page import write_theory_page
from fastat.training import choose_device

Preset = Literal["quick", "paper"]
_CONTINUES = "The same command again continues an experiment that was stopped."
_ALL = f"All experiments one after another, and an HTML page of them. {_CONTINUES}"
_PAGE = "One HTML page of the findings and figures of experiments."
_SETTINGS = "settings.json"
_Settings = TypeVar("_Settings")


@dataclass(frozen=True)
class Theory(Generic[_Settings]):
    """One experiment of a paper, with what it did and did not reproduce."""

    settings: _Settings
    preset: Preset = "quick"
    """Defaults of the other flags: quick, for minutes on two CPU cores; paper, the scale of the papers."""
    out: Path | None = None
    """Folder of the results; by default runs/theory/PRESET/EXPERIMENT."""
    jobs: int | None = None
    """Processes; by default one per CPU core, one on a GPU."""
    resources: Resources = DEFAULT_RESOURCES

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ValueError(f"jobs must be at least 1, got {self.jobs}")


@dataclass(frozen=True)
class Page:
    """What the page shows."""

    folders: tuple[Path, ...]
    """Folders of results."""
    out: Path = Path("theory.html")
    """File of the page."""


@dataclass(frozen=True)
class NoSettings:
    """All experiments have those of the preset."""


def usage() -> str:
    """What ``fastat theory --help`` prints."""
    width = max(map(len, EXPERIMENTS))
    return "\n".join(
        [
            "usage: fastat theory EXPERIMENT [--preset quick|paper] [flags]",
            "       fastat theory all [--preset quick|paper] [--out FOLDER] [--jobs N] ...",
            "       fastat theory page FOLDER [FOLDER ...] [--out FILE]",
            "",
            "The theory experiments of five papers: numbers, figures, and what was and was not reproduced.",
            "",
            *(f"  {name:{width}}  {text}" for name, text in EXPERIMENTS.items()),
            "",
            "fastat theory EXPERIMENT --help shows its flags.",
        ]
    )


def run_theory(given: Sequence[str]) -> None:
    """Runs ``fastat theory`` with these arguments.

    Args:
        given: after the word "theory".

    Raises:
        SystemExit: the command line is wrong, or asked for help.
    """
    if not given or given[0] in ("-h", "--help"):
        print(usage())
        return
    name, rest = given[0], list(given[1:])
    if name == "page":
        given = rest if rest[:1] == ["--help"] or "--folders" in rest else ["--folders", *rest]
        page = read(Page, None, "fastat theory page", given, _PAGE)
        print(f"page: {write_theory_page(page.folders, page.out)}")
    elif name == "all":
        _all(read(Theory[NoSettings], Theory(NoSettings(), _preset(rest)), "fastat theory all", rest, _ALL))
    elif name in EXPERIMENTS:
        module, preset = module_of(name), _preset(rest)
        default = Theory(module.PRESETS[preset], preset)
        kind = Theory[module.Settings]  # type: ignore[name-defined]
        command = read(kind, default, f"fastat theory {name}", rest, f"{name}: {EXPERIMENTS[name]}.\n\n{_CONTINUES}")
        folder = command.out or Path("runs") / "theory" / command.preset / name
        _run(name, command, folder)
    else:
        raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, all or page, got {name!r}")


def module_of(name: str) -> Experiment:
    """The module of an experiment."""
    return cast(Experiment, import_module(f"fastat.theory.{name.replace('-', '_')}.experiment"))


def _all(command: Theory[NoSettings]) -> None:
    place = command.out or Path("runs") / "theory" / command.preset
    began = time.monotonic()
    for name in EXPERIMENTS:
        settings = module_of(name).PRESETS[command.preset]
        _run(name, dataclasses.replace(command, settings=settings), place / name)
    page = write_theory_page([place / name for name in EXPERIMENTS], place / "index.html")
    print(f"\nall of it in {(time.monotonic() - began) / 60:.1f} minutes; page: {page}")


def _run(name: str, command: Theory[Any], folder: Path) -> None:
    """Runs an experiment, saves its result, and prints what it found."""
    module = module_of(name)
    settings = json.loads(json.dumps(dataclasses.asdict(command.settings)))
    _check_same_settings(folder, settings)
    print(f"{name}: {module.cost(command.settings)}; folder {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SETTINGS, settings)
    device = choose_device(command.resources.device)
    resources = dataclasses.replace(command.resources, device=str(device))
    jobs = command.jobs or (joblib.cpu_count() if device.type == "cpu" else 1)
    began = time.monotonic()
    try:
        with joblib.parallel_config(n_jobs=jobs):
            result = module.run(command.settings, folder, resources)
    except (FileNotFoundError, ValueError):  # of settings that cannot be run: the folder is free for others
        (folder / _SETTINGS).unlink()
        raise
    result.save(folder)
    print()
    for finding in result.findings():
        print(f"[{finding.verdict}] {finding.claim}\n    {finding.evidence}")
    print(f"{name}: {time.monotonic() - began:.0f} s; figures in {folder / FIGURES}\n", flush=True)


def _check_same_settings(folder: Path, settings: dict[str, Any]) -> None:
    file = folder / _SETTINGS
    if file.exists():
        check_same_settings(folder, "an experiment of other settings", json.loads(file.read_text()), settings)


def _preset(rest: Sequence[str]) -> Preset:
    """Which preset the other flags have their defaults from."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--preset", nargs="?", default="quick")
    named: Any = peek.parse_known_args(list(rest))[0].preset
    if named not in get_args(Preset):
        raise ValueError(f"preset must be one of {', '.join(get_args(Preset))}, got {named!r}")
    return named
