"""A trained network and where it is kept: what evaluation and reports work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from fastat import models
from fastat.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    AnyDataset,
    Dataset,
    Given,
    Split,
    as_dataset,
    channel_statistics,
    with_classes,
)
from fastat.evaluation import eval_mode, predict, some_of
from fastat.models import ModelConfig
from fastat.support.files import in_a_line, load_checkpoint
from fastat.support.files.foreign_json import content_of
from fastat.training.config import ConfigError, TrainConfig, config_from
from fastat.training.devices import choose_device, layout_of, placed
from fastat.training.monitors import best_epoch
from fastat.training.record import Record, check_same_record, read_record, record_in, record_of
from fastat.training.saved import check_network_state, check_size, history_in, statistics_in

Which = Literal["best", "last"]
WEIGHTS = 0x3E1647
"""The purpose in the key of initial weights."""


@dataclass(frozen=True)
class Network:
    """A trained network and what there is to know about it.

    Attributes:
        model: in eval mode; takes inputs [B, ...], of images pixels [B, C, H, W] in [0, 1], returns logits
            [B, len(classes)].
        record: how it was trained.
        title: the dataset's title.
        classes: the name of each class.
        history: the lines of metrics.jsonl, one per finished epoch.
        epoch: number of epochs it was trained for.
        which: "best" if it is that of the best epoch on the validation images, "last" if it is that of the last one.
        folder: where its run is, or its file.
        test: what to measure it on, where the caller of its training gave it.
        caller: digests of images or a front of the caller's, if it was loaded from a file of a run that has them.
    """

    model: nn.Module
    record: Record
    title: str
    classes: tuple[str, ...]
    history: list[dict[str, Any]]
    epoch: int
    which: Which
    folder: Path
    test: AnyDataset | None = None
    caller: Mapping[str, str] = field(default_factory=dict)

    @property
    def stopped(self) -> str:
        """Why the run ended before its last epoch; empty if it did not."""
        return str(self.history[-1]["stopped"]) if self.history else ""

    def some_of(self, given: Given, size: int | None) -> Dataset:
        """Samples to measure it on, where it is: a random choice of ``size``, or as many as :meth:`report` takes.

        Raises:
            ValueError: they do not fit the network.
        """
        named = as_dataset(given, "test")
        if len(named.classes) > len(self.classes):
            raise ValueError(f"test has {len(named.classes)} classes, the network {len(self.classes)}")
        device = next(self.model.parameters()).device
        some = some_of(with_classes(named, self.classes), size, self.record.run.seed, device)
        try:
            with eval_mode(self.model):
                predict(self.model, some.take(torch.zeros(1, dtype=torch.int64, device=device)).pixels())
        except Exception as error:  # whatever the module does
            raise ValueError(f"test has samples {list(some.image_shape)}, on which the model fails: {error}") from error
        return some

    def report(
        self, test: Given | Split | None = None, *, size: int | None = None, graph: bool = True, quiet: bool = False
    ) -> Path:
        """Measures the network and draws: a page, complete in itself, in the run's folder, whose path is returned.

        Clean and robust accuracy under FGSM, PGD-20 and PGD-50 with ten restarts, with 95% intervals; accuracy against
        the radius, by class and over the training; adversarial examples, where samples are pictures. The folder then
        has results.json, the folder "figures" and report.html.

        Args:
            test: samples to measure it on, as :func:`fastat.train` takes them; by default those that were given there.
            size: how many of them, chosen at random; by default ``eval_size`` of the run, else 500 on a CPU, all on a
                GPU.
            graph: whether the attacks may be recorded as CUDA graphs.
            quiet: print no table.

        Raises:
            ValueError: there are no test samples, or they do not fit the network.
        """
        from fastat import report  # from a room above, for this method alone

        given: Given | None = test.test if isinstance(test, Split) else self.test if test is None else test
        if given is None:
            raise ValueError("test must be given: the training was given none")
        some = self.some_of(given, self.record.run.eval_size if size is None else size)
        if not quiet:
            print(f"evaluating on {len(some)} test samples, and drawing", flush=True)
        results = report.write_results(self, some, self.folder, graph="auto" if graph else False)
        if not quiet:
            print(f"\n{report.results_table(results)}\n", flush=True)
        return report.write_page([self.folder], self.folder / "report.html")

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or no more will be."""
        return bool(self.stopped) or len(self.history) == self.record.optimizer.epochs


def network_state(record: Record, dataset: AnyDataset, model: nn.Module) -> dict[str, Any]:
    """What a file must hold for :func:`load_network` to build the network again."""
    return {
        "config": dict(record.fields),
        "title": dataset.title,
        "classes": list(dataset.classes),
        "image_shape": list(dataset.image_shape),
        "model": model.state_dict(),
    }


class OtherCodeError(ValueError):
    """A checkpoint is none of this library's."""


def load_network(
    path: str | Path,
    device: torch.device | str | None = None,
    *,
    which: Which | None = None,
    model: str | nn.Module | None = None,
) -> Network:
    """The network of a run folder, or of a checkpoint file (checkpoint.pt, best.pt).

    Args:
        path: a run folder or a file.
        device: by default the GPU if there is one.
        which: of a folder, "best" or "last"; by default what the run's configuration selects, where it is there.
        model: where the network is one's own, the module, whose weights are then those of the file, or the name of the
            function that makes it, "package.module:function": none is called because a file names it.

    Raises:
        FileNotFoundError: there is no such file, or the folder has no checkpoint.
        OtherCodeError: the file is a checkpoint of other code.
        ValueError: the file cannot be read, its weights do not fit ``model``, or it names another function.
    """
    file = Path(path)
    if file.is_dir():
        file = _file_of(file, which)
    state = load_checkpoint(file)
    if "config" not in state:
        raise OtherCodeError(f"{file} is no checkpoint of fastat")
    record = record_in(state["config"], f"{file}: config")
    check_network_state(state, file)
    _check_name(file, state)
    built = _built(file, record, state, model)
    try:
        # a run that averages its weights is evaluated by their average
        built.load_state_dict(state.get("average") or state["model"])
    except (AttributeError, LookupError, RuntimeError, TypeError) as error:
        raise ValueError(f"{file} holds the weights of another network: {in_a_line(error)}") from error
    chosen = choose_device(device)
    return Network(
        placed(built, layout_of(record.run.channels_last, chosen), chosen).eval(),
        record,
        state["title"],
        tuple(state["classes"]),
        _history(file, record, state),
        state["epoch"],
        "best" if file.name == BEST else "last",
        file.parent,
        caller=state.get("caller", {}),
    )


def _built(file: Path, record: Record, state: Mapping[str, Any], given: str | nn.Module | None) -> nn.Module:
    """The network of a checkpoint, with weights of any kind."""
    named, shape = str(record.fields["model"]), tuple(state["image_shape"])
    if isinstance(given, nn.Module):
        normalizes = not record.of_objects or record.fields.get("normalize") is not None
        inside = given.model if isinstance(given, models.Normalized) else given
        return models.Normalized(inside, *statistics_in(state["model"], shape, file)) if normalizes else given
    if record.of_objects and not record.fields.get("named"):
        if given is None or not models.is_own(given):
            raise ValueError(
                f"the network of {file} is an object, {named}, which no file can bring back: pass model=, the module, "
                "or the name of a function that makes it, package.module:function (--model)"
            )
        channels, *size = shape
        made = models.own_model(given, len(state["classes"]), channels, tuple(size))
        return _built(file, record, state, made)
    if models.is_own(named) and given != named:
        raise ValueError(
            f"the network of {file} is made by {named}, which no file can call: pass model={named!r} (--model)"
        )
    for part in ("model", "average"):
        models.check_tensors(state.get(part) or {}, file)
    network = ModelConfig(named) if record.of_objects else config_from(state["config"]).network
    statistics = statistics_in(state["model"], shape, file)
    try:
        needed = models.size_of(named, len(state["classes"]), shape, network.width)
        check_size(needed, state["model"], file)
        with torch.random.fork_rng(devices=[]):
            return build_model(network, len(state["classes"]), shape, *statistics)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: its network cannot be built: {in_a_line(error)}") from error


def build_model(
    network: ModelConfig,
    num_classes: int,
    image_shape: Sequence[int],
    mean: list[float],
    std: list[float],
    *,
    pretrained: bool = False,
) -> models.Normalized:
    """The network of a configuration with weights drawn from torch's generator, or pretrained ones."""
    channels, *size = image_shape
    return models.build(
        network.model, num_classes, channels, mean, std, network.width, image_size=tuple(size), pretrained=pretrained
    )


def normalization(normalize: str, train_set: AnyDataset) -> tuple[list[float], list[float]]:
    """Mean and deviation of the channels that come before the network."""
    channels = train_set.image_shape[0]
    if normalize == "data":
        return channel_statistics(train_set)
    if normalize == "none":
        return [0.0] * channels, [1.0] * channels
    if channels != 3:
        rule = f"data or none for images of {channels} channels"
        raise ConfigError("normalize", f"normalize must be {rule}, got {normalize!r}")
    return list(IMAGENET_MEAN), list(IMAGENET_STD)


def network_of_weights(
    config: TrainConfig, split: Split, file: Path, device: torch.device
) -> tuple[Network, list[str]]:
    """A network of a configuration's name with the weights that other code saved, and what is worth to know of them.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or does not fit; the message has the names that differ.
    """
    weights = models.read_weights(file)
    classes = split.train.classes
    with torch.random.fork_rng(devices=[]):
        statistics = normalization(config.network.normalize, split.train)
        model = build_model(config.network, len(classes), split.train.image_shape, *statistics)
    try:
        notes = models.load_weights(model, weights, file, other_classes=False)
    except ValueError as error:
        closest = models.closest_named(weights, len(classes), split.train.image_shape)
        hint = f"; they would fit {closest}" if closest not in ("", config.network.model) else ""
        raise ValueError(f"{error}{hint}") from error
    placed_model = placed(model, layout_of(config.run.channels_last, device), device).eval()
    return Network(placed_model, record_of(config), split.train.title, classes, [], 0, "last", file.parent), notes


CONFIG, ENVIRONMENT, METRICS = "config.json", "environment.json", "metrics.jsonl"
"""Files of a run folder: what is trained, on what, and a line per epoch."""
RESULTS = "results.json"
"""File of a run folder whose network has been measured."""
CALLER = "caller.json"
"""File of a run folder that has images or a front of the caller's: their digests."""
CHECKPOINT, BEST = "checkpoint.pt", "best.pt"
"""Files of a run folder: all that the run needs to go on, and the network of its best epoch."""


def _file_of(folder: Path, which: Which | None) -> Path:
    if which is None:
        which = _selected(folder)
    return folder / (BEST if which == "best" else CHECKPOINT)


def _selected(folder: Path) -> Which:
    """The network that the run selects; what is lost of the folder's other files is in the checkpoint."""
    record = _record_beside(folder)
    if record is not None and (folder / BEST).exists():
        return record.run.select
    file = folder / CHECKPOINT
    saved = load_checkpoint(file)
    if "config" not in saved:
        return "last"
    check_network_state(saved, file)
    record = record or record_in(saved["config"], f"{file}: config")
    best = best_epoch(saved["history"])
    if record.run.select == "last" or best is None or (best + 1, 0) == (saved["epoch"], saved.get("step")):
        return "last"
    if not (folder / BEST).exists():
        raise FileNotFoundError(
            f"{folder / BEST}, the network of epoch {best + 1}, which the run selects, is missing: put a copy back, or "
            f"take that of the last epoch (--which last, which='last')"
        )
    return "best"


def _check_name(file: Path, state: Mapping[str, Any]) -> None:
    """Raises ValueError for one of the two files of a run under the name of the other."""
    other = BEST if "optimizer" not in state else CHECKPOINT
    if file.name in (BEST, CHECKPOINT) and file.name != other:
        raise ValueError(
            f"{file} holds what a run keeps in {other}: give it that name, or evaluate the one that has it"
        )


def _history(file: Path, record: Record, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """That of the whole run, where the file is in its folder: best.pt knows it up to its own epoch."""
    own: list[dict[str, Any]] = state["history"]
    beside, found = _record_beside(file.parent), read_rows(file.parent / METRICS)
    if found is not None and beside is not None:
        check_same_record(file, record, beside)
    whole = file.parent / CHECKPOINT
    if found is None and file.name == BEST and whole.exists():
        saved = load_checkpoint(whole)
        check_network_state(saved, whole)
        found = saved["history"]
    return own if found is None or len(found) < len(own) else found


def _record_beside(folder: Path) -> Record | None:
    """That of the folder's config.json; None where it is missing or broken."""
    try:
        return read_record(folder / CONFIG)
    except (OSError, ValueError):
        return None


def read_rows(file: Path) -> list[dict[str, Any]] | None:
    """The lines of metrics.jsonl; None where it is missing or broken."""
    try:
        return history_in(content_of(file), str(file))
    except (OSError, ValueError):
        return None
