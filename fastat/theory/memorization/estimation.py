"""Estimates memorization and influence by training many networks on random subsets; resumable."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastat.data import Dataset, Split
from fastat.support.files import check_same_settings
from fastat.support.files.arrays import save_arrays
from fastat.support.files.foreign_json import read_object
from fastat.theory.memorization.display import Display, estimation_display
from fastat.theory.memorization.ensemble import Recipe, check_stateless, initial_network, subset, train_networks
from fastat.theory.memorization.scores import Memorization, Outcomes, read_all_arrays, score
from fastat.training import choose_device, interrupts_deferred

_DEFAULT_RECIPE = Recipe()


@dataclass(frozen=True)
class _Plan:
    """What the networks are trained with: data on the device, the size of the subsets, the rest as given."""

    model_fn: Callable[[], nn.Module]
    train: Dataset
    test: Dataset
    size: int
    recipe: Recipe
    seed: int


@dataclass(frozen=True)
class _Done:
    """The networks trained so far: what they got right, and the seconds it took."""

    outcomes: Outcomes
    seconds: float


def estimate(
    dataset: Split,
    model_fn: Callable[[], nn.Module],
    n_models: int,
    fraction: float = 0.7,
    *,
    folder: str | Path | None = None,
    recipe: Recipe = _DEFAULT_RECIPE,
    seed: int = 0,
    models_at_once: int = 20,
    device: str | torch.device | None = None,
) -> Memorization:
    """Memorization of the training samples and their influence on the test samples (Feldman and Zhang 2020).

    Trains n_models networks, each on its own random subset of round(fraction N) training samples, and compares those
    that had a sample in their subset with those that had not; see :class:`Memorization`. The standard error of a
    memorization score is about sqrt(p (1 - p) / (fraction (1 - fraction) n_models)), at most 0.077 for 200 networks.

    Subsets, initial weights and orders depend on (seed, index of the network, ids) alone: neither on n_models nor on
    models_at_once. The same call gives the same bits on the same machine; with another models_at_once the arithmetic
    may be rounded differently, and a prediction on the edge come out differently.

    With a folder, what the networks get right is saved in its file networks.npz each time models_at_once of them are
    trained. The same call continues a stopped one; a larger n_models continues a finished one.

    Args:
        dataset: training and test samples.
        model_fn: builds a network that takes pixels [B, C, H, W] in [0, 1] and returns logits [B, C]; without batch
            norm or dropout: many are trained as one stack.
        n_models: number of networks, at least 2.
        fraction: of the training samples in each subset, above 0 and below 1.
        folder: where finished networks are kept; made if missing. Nothing is written without one.
        recipe: how each network is trained.
        seed: seed of the subsets, the weights and the orders.
        models_at_once: networks trained at a time. On a CPU 20 small ones stay in the cache; a GPU likes more.
        device: "cpu", "cuda"; by default the GPU if there is one.

    Raises:
        ValueError: an argument is out of its range, the network is not as described, or the folder holds networks of
            other settings; the message names them.
        FloatingPointError: a loss is infinite or NaN; the message names the network.
        KeyboardInterrupt: on Ctrl-C; the networks saved in the folder so far stay.
    """
    size = _check_arguments(dataset, n_models, fraction, recipe, models_at_once)
    placed = choose_device(device)
    plan = _Plan(model_fn, dataset.train.load().to(placed), dataset.test.load().to(placed), size, recipe, seed)
    check_stateless(initial_network(model_fn, seed, 0).to(placed), plan.train)
    settings = _settings(dataset, model_fn, fraction, recipe, seed)
    file = None if folder is None else _open(Path(folder))
    done = _read(file, settings) if file is not None and file.exists() else _nothing(dataset)

    first = len(done.outcomes.member)
    with estimation_display(n_models, recipe.epochs, first) as display:
        for start in range(first, n_models, models_at_once):
            indices = range(start, min(start + models_at_once, n_models))
            done = _train_more(done, plan, indices, display)
            if file is not None:
                with interrupts_deferred():
                    _write(file, settings, done)
    return score(done.outcomes.first(n_models), dataset.train.ids.numpy(), dataset.test.ids.numpy())


def seconds_spent(folder: str | Path) -> float:
    """The seconds that training the networks of a folder took, over all calls that did it.

    Raises:
        FileNotFoundError: the folder holds no networks.
        ValueError: its file is broken.
    """
    file = Path(folder) / "networks.npz"
    return _seconds(file, read_all_arrays(file, ("seconds",)))


def _train_more(done: _Done, plan: _Plan, indices: range, display: Display) -> _Done:
    """Trains the networks of these indices and adds them to those done."""
    began = time.monotonic()
    ids, epochs = plan.train.ids.cpu(), plan.recipe.epochs
    members = [subset(ids, plan.size, plan.seed, index) for index in indices]

    def after_epoch(epoch: int) -> None:
        display.epochs(indices.start * epochs + len(indices) * epoch)

    networks = train_networks(plan.model_fn, plan.train, members, indices, plan.recipe, plan.seed, after_epoch)
    member = torch.zeros(len(indices), len(ids), dtype=torch.bool).scatter_(1, torch.stack(members), True)
    right = (networks.correct(half).cpu().numpy() for half in (plan.train, plan.test))
    new = Outcomes(member.numpy(), *right)
    seconds = time.monotonic() - began
    display.networks(indices.stop, len(indices) / seconds, new)
    return _Done(done.outcomes.and_then(new), done.seconds + seconds)


def _check_arguments(dataset: Split, n_models: int, fraction: float, recipe: Recipe, models_at_once: int) -> int:
    """The size of the subsets."""
    n = len(dataset.train)
    if n_models < 2:
        raise ValueError(f"n_models must be at least 2: memorization compares networks; got {n_models}")
    if not (0 < fraction < 1 and 1 <= round(fraction * n) < n):
        raise ValueError(f"fraction must leave samples inside and outside of the subsets of {n}, got {fraction}")
    if models_at_once < 1:
        raise ValueError(f"models_at_once must be at least 1, got {models_at_once}")
    if recipe.epochs < 1 or recipe.batch_size < 1 or not recipe.lr > 0:
        raise ValueError(f"epochs and batch_size must be at least 1 and lr above 0, got {recipe}")
    if len(dataset.train.ids.unique()) < n:
        raise ValueError("the ids of the training samples must differ: the random subsets are keyed by them")
    return round(fraction * n)


def _settings(
    dataset: Split, model_fn: Callable[[], nn.Module], fraction: float, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """What decides the outcome of every network. Digests stand for what is too long to compare field by field."""
    model = initial_network(model_fn, seed, 0)
    tensors = [*model.parameters(), *model.buffers()]
    return {
        "dataset": dataset.train.title,
        "train_samples": len(dataset.train),
        "test_samples": len(dataset.test),
        "samples": _digest("", *(part for half in (dataset.train, dataset.test) for part in _content(half.load()))),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "network": _digest(str(model), *tensors),
        "fraction": fraction,
        "seed": seed,
        **dataclasses.asdict(recipe),
    }


def _content(dataset: Dataset) -> tuple[Tensor, Tensor, Tensor]:
    return dataset.images, dataset.labels, dataset.ids


def _digest(text: str, *tensors: Tensor) -> str:
    state = hashlib.sha256(text.encode())
    for tensor in tensors:
        state.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return state.hexdigest()[:12]


def _open(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "networks.npz"


def _nothing(dataset: Split) -> _Done:
    train, test = np.zeros((0, len(dataset.train)), np.bool_), np.zeros((0, len(dataset.test)), np.bool_)
    return _Done(Outcomes(train, train, test), 0.0)


def _write(file: Path, settings: dict[str, Any], done: _Done) -> None:
    outcomes = {field.name: getattr(done.outcomes, field.name) for field in dataclasses.fields(Outcomes)}
    # settings and outcomes in one file: no kill can part them
    save_arrays(file, {"settings": json.dumps(settings), "seconds": done.seconds, **outcomes}, compressed=True)


def _read(file: Path, settings: dict[str, Any]) -> _Done:
    names = tuple(field.name for field in dataclasses.fields(Outcomes))
    found = read_all_arrays(file, ("settings", "seconds", *names))
    saved = read_object(str(found["settings"]).encode(), {}, f"{file}: settings")
    check_same_settings(file.parent, "networks of other settings", saved, settings)
    try:
        outcomes = Outcomes(*(found[name] for name in names))
        sizes = outcomes.member.shape[1], outcomes.test_correct.shape[1]
        if sizes != (settings["train_samples"], settings["test_samples"]):
            raise ValueError(f"it has outcomes on {sizes[0]} and {sizes[1]} samples")
    except ValueError as error:
        raise ValueError(f"{file} holds no outcomes: {error}; delete it to train the networks again") from error
    return _Done(outcomes, _seconds(file, found))


def _seconds(file: Path, found: Mapping[str, NDArray[Any]]) -> float:
    seconds = found["seconds"]
    if seconds.shape != () or seconds.dtype.kind not in "fiu":
        raise ValueError(f"{file}: seconds must be a number, got {seconds.dtype} {list(seconds.shape)}")
    return float(seconds)
