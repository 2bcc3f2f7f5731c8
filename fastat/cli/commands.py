"""The commands and their flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fastat.training import TrainConfig


@dataclass(frozen=True)
class Train:
    """fastat train [PROTOCOL] [flags]: adversarially train a network, evaluate it, and draw figures.

    PROTOCOL is one of {protocols}; the defaults of the flags follow it and --data. The same command again continues a
    run that was stopped, and shows the results of one that is finished. On several GPUs or machines: torchrun
    --nproc-per-node N -m fastat train ...
    """

    settings: TrainConfig
    config: Path | None = None
    """A config.json, of an earlier run for example, that has the defaults of the other flags."""
    out: Path | None = None
    """Folder of the run, which the processes of torchrun share; by default runs/ and a name made from the
    configuration."""
    data_root: Path | None = None
    """Folder with the datasets; by default the environment variable FASTAT_DATA."""
    download: bool = False
    """Fetch the dataset into that folder if it is missing there."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""
    graph: bool = True
    """On a GPU, replay steps and attacks from CUDA graphs where that can be; the training is the same."""
    checkpoint_every: float = 300.0
    """Seconds between two checkpoints within an epoch."""
    tensorboard: bool = False
    """Also write the curves for TensorBoard, into the run's folder "tensorboard"."""


@dataclass(frozen=True)
class Evaluate:
    """fastat evaluate RUN [flags]: evaluate the network of a run folder as it is now, or of a checkpoint file.

    Writes its results and figures into the folder "evaluation" beside the checkpoint.
    """

    run: Path
    """Folder of a run, or a checkpoint file of one."""
    which: Literal["best", "last"] | None = None
    """Network of a run folder: of its best epoch or its last; by default what the run selects."""
    eval_size: int | None = None
    """Number of test images; by default what the run was trained with."""
    out: Path | None = None
    """Folder of the results."""
    data_root: Path | None = None
    """Folder with the datasets; by default the environment variable FASTAT_DATA."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""
    graph: bool = True
    """On a GPU, replay the attacks from CUDA graphs where that can be; the results are the same up to rounding."""


@dataclass(frozen=True)
class Report:
    """fastat report RUN [RUN ...] [flags]: one HTML page, complete in itself, that shows runs side by side."""

    runs: tuple[Path, ...]
    """Folders of runs, finished or not."""
    out: Path = Path("report.html")
    """File of the page."""


@dataclass(frozen=True)
class Theory:
    """fastat theory EXPERIMENT [flags]: the theory experiments of five papers; fastat theory --help lists them."""

    arguments: tuple[str, ...] = ()
    """What follows the word theory."""


@dataclass(frozen=True)
class Info:
    """fastat info: show how fastat was built, and the devices it finds."""


Command = Train | Evaluate | Report | Theory | Info
