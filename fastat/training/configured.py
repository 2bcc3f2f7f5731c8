"""A training run made from its configuration: what the command line and the theory lab do."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from fastat import data, models
from fastat.data import Augmentation, Split
from fastat.protocols import protocol_of
from fastat.support.distributed import Group, rank_of
from fastat.support.keyed import derive_seed
from fastat.training.checkpoint import check_same_caller, of_the_caller
from fastat.training.checks import check_config
from fastat.training.config import ConfigError, TrainConfig
from fastat.training.devices import choose_device
from fastat.training.extending import check_same_run
from fastat.training.holding import held
from fastat.training.images import check_box, training_sets
from fastat.training.network import CHECKPOINT, WEIGHTS, Network, build_model, normalization
from fastat.training.optimizers import optimizer_of
from fastat.training.record import record_of
from fastat.training.run import Run, open_run
from fastat.training.running import Watching, trained
from fastat.training.schedules import schedule_of
from fastat.training.task import Task


def train_configured(
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
    """:func:`fastat.train` for a configuration: datasets and networks by name, all as ``fastat train`` has it.

    Args:
        config: what to train.
        folder: the run's folder; made if missing. Processes of a group share it, on several machines too.
        data_root, download: see :func:`fastat.data.load`.
        device, group, quiet, graph, checkpoint_every, measure, measure_every: see :func:`fastat.train`.
        split: images to train on in place of the train half of ``config.dataset.data``. A run is continued on the same
            only.
        front: comes before the network wherever this run calls it, in the training, the attacks, the validation
            and ``measure``: a fixed filter of the images, say. It is neither trained nor saved nor returned, and a run
            is continued behind the same only.
        tensorboard: also write the curves to the folder "tensorboard" of the run.

    Returns:
        The network that ``config.run.select`` chooses.

    Raises:
        FileNotFoundError: the dataset is missing.
        ModuleNotFoundError: tensorboard is asked for and not installed.
        ValueError: a value of the configuration is out of its range or does not fit the data, the device or the number
            of processes, the folder holds a run of another configuration (the message names the fields), of other
            images or behind another front, another process trains in it, or the network of its best epoch is lost;
            front has parameters or changes, measure_every < 1, or graph is no bool.
        FloatingPointError, KeyboardInterrupt: as :func:`fastat.train`.
    """
    watching = Watching(quiet, checkpoint_every, tensorboard, measure, measure_every)
    path, chosen = Path(folder), choose_device(device)
    check_config(config)
    with held(path, record_of(config), group, chosen, quiet):
        task = task_of(config, path, data_root, group, download, split, front)
        return trained(task, path, chosen, group, graph, watching)[0]


def open_configured(
    config: TrainConfig,
    folder: Path,
    data_root: str | Path | None,
    device: torch.device,
    group: Group | None = None,
    download: bool = False,
    split: Split | None = None,
    front: nn.Module | None = None,
    graph: bool = True,
) -> Run:
    """A new run in the folder, or the unfinished one it holds, to be continued; nothing keeps others from the folder.

    Raises:
        FileNotFoundError, ValueError: as :func:`train_configured`.
    """
    check_config(config)
    task = task_of(config, folder, data_root, group, download, split, front)
    return open_run(task, folder, device, group, graph)


def task_of(
    config: TrainConfig,
    folder: Path,
    data_root: str | Path | None = None,
    group: Group | None = None,
    download: bool = False,
    split: Split | None = None,
    front: nn.Module | None = None,
) -> Task:
    """What a configuration whose values are in their ranges says, for a run in that folder."""
    record = record_of(config)
    check_same_run(folder, record)
    front = None if front is None else copy.deepcopy(front)
    name = config.dataset.data
    if split is None and data.is_own(name):
        split = _load(name, data_root, download, group)
    caller = of_the_caller(None if split is None else split.train, front)
    check_same_caller(folder, caller)
    split = _load(name, data_root, download, group) if split is None else split
    if config.threat.box:
        check_box(split)
    train_set, val_set = training_sets(config.dataset, config.run.seed, split)
    model, notes = _new_model(config, split, begun=(folder / CHECKPOINT).exists())
    return Task(
        model=model,
        protocol=protocol_of(config.method, config.threat.threat_model),
        train_set=train_set,
        val_set=val_set,
        augmentation=Augmentation(config.dataset.augment, config.dataset.cutout, config.run.seed),
        optimizer=partial(optimizer_of, config.optimizer),
        schedule=schedule_of(config.optimizer),
        record=record,
        caller=caller,
        front=front,
        test=split.test,
        notes=[("weights", note) for note in notes],
    )


def _load(name: str, data_root: str | Path | None, download: bool, group: Group | None) -> Split:
    """The dataset; where it is to be downloaded, the first process does that while the others wait."""
    first = rank_of(group) == 0
    if download and group is not None and not first:
        dist.barrier(group)
    try:
        split = data.load(name, data_root, download=download and first)
    except ValueError as error:
        raise ConfigError("data", str(error)) from error
    if download and group is not None and first:
        dist.barrier(group)
    return split


def _new_model(config: TrainConfig, split: Split, begun: bool) -> tuple[nn.Module, list[str]]:
    """The network before its first step, and what is worth to know of the weights it starts from. Those of a run that
    has begun come from its checkpoint: files that it started from are not read again, and may be gone."""
    network, train_set = config.network, split.train
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.run.seed, WEIGHTS))
        try:
            model = build_model(
                network, len(train_set.classes), train_set.image_shape, *normalization(network.normalize, train_set),
                pretrained=network.pretrained and not begun,
            )  # fmt: skip
        except ValueError as error:
            raise ConfigError("model", str(error)) from error
    notes: list[str] = []
    if network.init is not None and not begun:
        file = Path(network.init)
        try:
            notes = models.load_weights(model, models.read_weights(file), file, other_classes=True)
        except (OSError, ValueError) as error:
            raise ConfigError("init", str(error)) from error
    return model, notes
