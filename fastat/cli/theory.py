"""The commands ``fastat theory EXPERIMENT`` and ``fastat theory all``."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import joblib

from fastat.cli.commands import Theory, TheoryAll
from fastat.support.files import check_same_settings, write_json
from fastat.support.files.foreign_json import read_file
from fastat.theory import EXPERIMENTS, FIGURES, Experiment, experiment
from fastat.theory.page import write_theory_page
from fastat.training import ConfigError, choose_device, locked

_SETTINGS = "settings.json"
_RESULTS = Path("runs") / "theory"


def run_theory(command: Theory) -> None:
    """Runs an experiment, or goes on with it; saves its result, and prints what it found.

    Raises:
        ValueError: jobs < 1, settings that cannot be run, or a folder that holds an experiment of other settings or
            that another process works in.
    """
    if command.jobs is not None and command.jobs < 1:
        raise ConfigError("jobs", f"jobs must be at least 1, got {command.jobs}")
    module, chosen = experiment(command.name), command.settings
    folder = command.out or _RESULTS / command.preset / command.name
    with locked(folder):
        _run(command, folder, module, chosen)


def _run(command: Theory, folder: Path, module: Experiment, chosen: Any) -> None:
    settings = json.loads(json.dumps(dataclasses.asdict(chosen)))
    _check_same_settings(folder, settings)
    print(f"{command.name}: {module.cost(chosen)}; folder {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / _SETTINGS, settings)
    device = choose_device(command.resources.device)
    resources = dataclasses.replace(command.resources, device=str(device))
    jobs = command.jobs or (joblib.cpu_count() if device.type == "cpu" else 1)
    began = time.monotonic()
    try:
        with joblib.parallel_config(n_jobs=jobs):
            result = module.run(chosen, folder, resources)
    except (FileNotFoundError, ValueError):  # of settings that cannot be run: the folder is free for others
        (folder / _SETTINGS).unlink()
        raise
    result.save(folder)
    print()
    for finding in result.findings():
        print(f"[{finding.verdict}] {finding.claim}\n    {finding.evidence}")
    print(f"{command.name}: {time.monotonic() - began:.0f} s; figures in {folder / FIGURES}\n", flush=True)


def run_all(command: TheoryAll) -> None:
    """Runs every experiment with the settings of the preset, and writes a page of them."""
    place = command.out or _RESULTS / command.preset
    began = time.monotonic()
    for name in EXPERIMENTS:
        settings = experiment(name).PRESETS[command.preset]
        run_theory(
            Theory(
                name=name,
                settings=settings,
                preset=command.preset,
                out=place / name,
                jobs=command.jobs,
                resources=command.resources,
            )
        )
    page = write_theory_page([place / name for name in EXPERIMENTS], place / "index.html")
    print(f"\nall of it in {(time.monotonic() - began) / 60:.1f} minutes; page: {page}")


def _check_same_settings(folder: Path, settings: dict[str, Any]) -> None:
    file = folder / _SETTINGS
    if file.exists():
        check_same_settings(folder, "an experiment of other settings", read_file(file, {}), settings)
