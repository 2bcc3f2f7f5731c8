"""The commands and their flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, Suppress, arg

from fastat.support.distributed import DEFAULT_TIMEOUT
from fastat.support.threat import Norm
from fastat.theory import DEFAULT_RESOURCES, Resources
from fastat.training import TrainConfig

Preset = Literal["quick", "paper"]
# Tyro is not told that these are required: it would only say that one is missing, also where another flag is misspelt.
_required = "(required)"


@dataclass(frozen=True)
class Train:
    """Adversarially train a network, evaluate it, and draw figures.

    fastat train PROTOCOL [OPTIONS] is short for --protocol PROTOCOL; the defaults of the options follow it and --data.
    The same command again continues a run that was stopped, and shows the results of one that is finished. On several
    GPUs or machines: torchrun --nproc-per-node N -m fastat train ...
    """

    settings: Annotated[TrainConfig, arg(name="")]  # its parts head the help, as "method options"
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
    """On a GPU steps and attacks are replayed from CUDA graphs where that can be; --no-graph records nothing. The
    training is the same."""
    checkpoint_every: float = 300.0
    """Seconds between two checkpoints within an epoch."""
    timeout: float = DEFAULT_TIMEOUT
    """Seconds that the processes of torchrun wait for one that does not answer, before they end."""
    tensorboard: bool = False
    """Also write the curves for TensorBoard, into the run's folder "tensorboard"."""
    quiet: bool = False
    """Show the results alone."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate the network of a run folder as it is now, or of a checkpoint file.

    Writes its results and figures into the folder "evaluation" beside the checkpoint.
    """

    run: Annotated[Positional[Path | None], arg(metavar="RUN", help_behavior_hint=_required)] = None
    """Folder of a run, a checkpoint file of one, or weights of other code, which need --model and --data."""
    model: str | None = None
    """Network that weights of other code are for, as for train; package.module:function where a run has one of your
    own."""
    data: str | None = None
    """Dataset to evaluate weights of other code on, as for train; package.module:function where a run has data of your
    own."""
    normalize: Literal["data", "imagenet", "none"] = "data"
    """What weights of other code take their pixels normalized by: see train."""
    norm: Norm | None = None
    """Norm of the attack on weights of other code; by default that of train for the dataset."""
    eps: float | None = None
    """Radius of the attack on weights of other code, likewise."""
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
    """On a GPU attacks are replayed from CUDA graphs where that can be; --no-graph records nothing. The results are the
    same up to rounding."""
    quiet: bool = False
    """Show the results alone."""


@dataclass(frozen=True)
class Report:
    """Write one HTML page, complete in itself, that shows runs side by side."""

    runs: Annotated[Positional[tuple[Path, ...]], arg(metavar="RUN [RUN ...]", help_behavior_hint=_required)] = ()
    """Folders of runs, finished or not."""
    out: Path = Path("report.html")
    """File of the page."""


@dataclass(frozen=True, kw_only=True)
class _Work:
    preset: Preset = "quick"
    """Defaults of the other flags: quick, for minutes on two CPU cores; paper, the scale of the papers."""
    out: Path | None = None
    """Folder of the results; by default runs/theory/PRESET, and in it one of the experiment's name."""
    jobs: int | None = None
    """Processes; by default one per CPU core, one on a GPU."""
    resources: Resources = DEFAULT_RESOURCES


@dataclass(frozen=True, kw_only=True)
class Theory(_Work):
    """One experiment of a paper."""

    name: Suppress[str]
    settings: Annotated[Any, arg(name="")]  # under its name, tyro would put that before what is wrong with a value


@dataclass(frozen=True, kw_only=True)
class TheoryAll(_Work):
    """All experiments one after another, and an HTML page of them. The same command again continues."""


@dataclass(frozen=True)
class TheoryPage:
    """Write one HTML page of the findings and figures of experiments."""

    folders: Annotated[
        Positional[tuple[Path, ...]], arg(metavar="FOLDER [FOLDER ...]", help_behavior_hint=_required)
    ] = ()
    """Folders of results."""
    out: Path = Path("theory.html")
    """File of the page."""


@dataclass(frozen=True)
class Info:
    """Show how fastat was built, and the devices it finds."""


Command = Train | Evaluate | Report | Theory | TheoryAll | TheoryPage | Info
