"""What every experiment offers, to the command line and to Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fastat.theory.result import Result


@dataclass(frozen=True)
class Resources:
    """What an experiment works with on this machine: datasets and a device."""

    data_root: Path | None = None
    """Folder with the datasets; by default the environment variable FASTAT_DATA."""
    download: bool = False
    """Fetch datasets into that folder if they are missing there."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""


DEFAULT_RESOURCES = Resources()


class Experiment(Protocol):
    """What the package of an experiment offers, and its module ``experiment``."""

    Settings: type[Any]
    """What is computed: a frozen dataclass, whose fields are the command's flags."""
    PRESETS: Mapping[str, Any]
    """Settings by name: "quick", for minutes on two CPU cores, and "paper", the scale of the paper."""

    def cost(self, settings: Any) -> str:
        """What a run will compute, and how long that takes on this machine."""

    def run(self, settings: Any, folder: Path, resources: Resources = DEFAULT_RESOURCES) -> Result:
        """Computes what the folder does not hold yet, and returns the result of all.

        What is finished, and trainings that are not, are kept in the folder: the same call continues a stopped run.
        Cells run through joblib, as :func:`fastat.theory.sweep.sweep` says; neither that nor an interruption changes
        a number.

        Args:
            settings: an instance of Settings.
            folder: where the work is kept; made if missing. Another one for other settings.
            resources: datasets and device.

        Raises:
            FileNotFoundError: a dataset is missing.
            ValueError: a setting does not fit its dataset.
        """
