"""Adversarial training, resumable to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from fastat.data import Split
from fastat.support.distributed import Group, rank_of
from fastat.training.checkpoint import as_network
from fastat.training.config import ConfigError, TrainConfig
from fastat.training.devices import choose_device
from fastat.training.event_log import EventLog
from fastat.training.interrupt import termination_raises
from fastat.training.loop import train_epochs
from fastat.training.network import Network
from fastat.training.progress import training_display
from fastat.training.run import open_run


def train(
    config: TrainConfig,
    folder: str | Path,
    *,
    data_root: str | Path | None = None,
    download: bool = False,
    device: str | torch.device | None = None,
    group: Group | None = None,
    split: Split | None = None,
    front: nn.Module | None = None,
    quiet: bool = False,
    graph: bool = True,
    checkpoint_every: float = 300.0,
    tensorboard: bool = False,
    measure: Callable[[nn.Module], Mapping[str, float]] | None = None,
    measure_every: int = 1,
) -> Network:
    """Trains a network adversarially and keeps the run in a folder.

    min over w of E [ max over |d| <= eps of CE(w, x + d, y) ] (Madry et al. 2018, equation 2.1): each step finds d by
    the configured attack and descends the configured objective there, by default PGD and the mean of the
    cross-entropies (:mod:`fastat.protocols.objective` has the others). The folder holds config.json, environment.json,
    metrics.jsonl (a line per epoch), checkpoint.pt, and best.pt, the network of the epoch with the best PGD-20 accuracy
    on the validation images.

    If the folder holds an unfinished run of the same configuration, that run is continued. On a CPU, in one process, it
    then ends with the same bits as a run that was never stopped, whenever the old one was killed. A finished run is not
    trained again.

    Args:
        config: what to train.
        folder: the run's folder; made if missing. Processes of a group share it, on several machines too.
        data_root, download: see :func:`fastat.data.load`.
        device: "cpu", "cuda", "cuda:1"; by default the GPU if there is one.
        group: processes of torch.distributed that train together: each takes its part of every batch, with the random
            numbers of its images, and the first one writes. All call this with the same arguments.
        split: images to train on in place of the train half of ``config.dataset.data``. A run is continued on the same
            only.
        front: comes before the network wherever this run calls it, in the training, the attacks, the validation
            and ``measure``: a fixed filter of the images, say. It is neither trained nor saved nor returned, and a run
            is continued behind the same only.
        quiet: show nothing while training.
        graph: on a GPU, record each step, or with a group the attack, as a CUDA graph, and the attacks of the
            validation and the monitors; what cannot be recorded runs as it is. False records nothing. The training is
            the same; accuracies on the validation images are, up to rounding.
        checkpoint_every: seconds between two checkpoints within an epoch; 0 saves after every step.
        tensorboard: also write the curves to the folder "tensorboard" of the run.
        measure: called with the network after every epoch, by the first process; the numbers it returns are kept in the
            epoch's line of metrics.jsonl, under "measured". It must leave the network as it found it.
        measure_every: epochs between two of these calls; the last epoch is always measured.

    Returns:
        The network that ``config.run.select`` chooses.

    Raises:
        FileNotFoundError: the dataset is missing.
        ModuleNotFoundError: tensorboard is asked for and not installed.
        ValueError: a value of the configuration is out of its range or does not fit the data, the device or the number
            of processes, the folder holds a run of another configuration (the message names the fields), of other
            images or behind another front, front has parameters or changes, measure_every < 1, or graph is no bool.
        FloatingPointError: many steps of an epoch were skipped because the gradient was infinite or NaN.
        KeyboardInterrupt: on Ctrl-C, and as :class:`fastat.training.Terminated` on SIGTERM, after the step under way
            and a checkpoint; with a group at once, without one.
    """
    if measure_every < 1:
        raise ValueError(f"measure_every must be at least 1, got {measure_every}")
    if not isinstance(graph, bool):
        raise ValueError(f"graph must be True or False, got {graph!r}")
    if not checkpoint_every >= 0:
        raise ConfigError("checkpoint_every", f"checkpoint_every must be at least 0, got {checkpoint_every}")
    run = open_run(config, Path(folder), data_root, choose_device(device), group, download, split, front, graph)
    first, epochs = rank_of(group) == 0, run.schedule.epochs
    total = epochs * run.images.steps_per_epoch
    with training_display(epochs, total, run.state.step, quiet=quiet or not first) as display:
        if run.state.step == 0:
            for found in run.state.current.findings:
                display.finding(found)
        elif not run.over:
            display.say(f"continues after {run.state.step:,} of {total:,} steps")
        log = EventLog(run.folder.path, run.state.history) if tensorboard and first else None
        try:
            with termination_raises(group is None):
                train_epochs(run, display, log, measure if first else None, measure_every, checkpoint_every)
        finally:
            if log is not None:
                log.close()
    if group is not None:
        dist.barrier(group)  # the first process has written the network that all read now
    return as_network(run.folder, run.learner, run.state)
