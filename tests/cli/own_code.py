"""Code of a user's own in the current folder, and what the command line refuses."""

from pathlib import Path

import pytest

from fastat.cli import main


def put(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, source: str) -> Path:
    """Makes the folder the current one, with a module in it that can be imported."""
    (folder / f"{module}.py").write_text(source)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    return folder


def refusal(*given: str) -> str:
    """The message with which a command ends."""
    with pytest.raises(SystemExit) as stop:
        main(given)
    return str(stop.value)
