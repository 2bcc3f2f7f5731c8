"""A caller's network and data, made ready for a run."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastat import data, models
from fastat.data import AnyDataset, Given, Mapped, Split
from fastat.support.keyed import derive_seed
from fastat.support.threat import Bounds, check_bounds
from fastat.training.checkpoint import of_the_caller
from fastat.training.config import ConfigError
from fastat.training.images import are_bytes, extent
from fastat.training.network import WEIGHTS, build_model, normalization

Normalize = Literal["data"] | tuple[float | Sequence[float], float | Sequence[float]] | None
"""What inputs are normalized by before a network: the statistics of its data, (mean, std), or nothing."""

_VAL_SHARE, _MOST_VAL = 10, 1000


class Sets(NamedTuple):
    """What a run learns from, is watched on, and is measured on.

    Attributes:
        train, val, test: None for none.
        whole: what val was set apart from, whose statistics inputs are normalized by.
        given: what a caller's data are known by: digests.
        notes: what is worth to know: of what, and what.
    """

    train: AnyDataset
    val: AnyDataset | None
    test: AnyDataset | None
    whole: AnyDataset
    given: dict[str, str]
    notes: list[tuple[str, str]]


def sets_of(
    train_set: Given | Split | str,
    val: Given | int | None,
    test: Given | None,
    classes: Sequence[str] | None,
    data_root: str | Path | None,
    **reading: Any,
) -> Sets:
    """The samples of a run, all of one shape and with the same classes.

    Args:
        train_set, val, test, classes, data_root: see :func:`fastat.train`.
        reading: in_memory and workers of :func:`fastat.data.as_dataset`.
    """
    given: Given | Split = data.load(train_set, data_root) if isinstance(train_set, str) else train_set
    if isinstance(given, Split):
        test = given.test if test is None else test
        given = given.train
    train = data.as_dataset(given, "train_set", classes=classes, **reading)
    val = int(val) if isinstance(val, Integral) and not isinstance(val, bool) else val
    if isinstance(val, bool | float):
        raise TypeError(f"val must be a number of samples of train_set, or data, got {val!r}")
    others = {"val": None if isinstance(val, int) else val, "test": test}
    found: dict[str, AnyDataset | None] = {"val": None, "test": None}
    for name, other in others.items():
        if other is not None:
            one = data.as_dataset(other, name, classes=classes, title=train.title, **reading)
            if one.image_shape != train.image_shape:
                shapes = f"{list(one.image_shape)}, those of train_set {list(train.image_shape)}"
                raise ValueError(f"{name} has samples of shape {shapes}")
            data.check_same_classes(train, one, name)
            found[name] = one
    whole, known, notes = train, of_the_caller(train, None), []
    if found["val"] is not None:
        known["images"] += f" and {data.dataset_digest(found['val'])}"
    else:
        size = min(len(train) // _VAL_SHARE, _MOST_VAL) if val is None else val
        assert isinstance(size, int)
        try:
            train, found["val"] = data.held_out(train, size)
        except ValueError as error:
            raise ConfigError("val", f"val must be at least 0 and below {len(train)} samples, got {size}") from error
        if isinstance(train, Mapped) and train.draws and size > 0:
            text = f"the {size} samples set apart keep the random transforms of train_set: pass val= for plain ones"
            notes.append(("validation", text))
    return Sets(train, found["val"], found["test"], whole, known, notes)


def within(sets: Sets, bounds: Bounds) -> Sets:
    """The samples, those that are read as they are needed checked then.

    Raises:
        ValueError: some are outside the bounds: the first thing that goes wrong with normalized data.
    """
    lower, upper = check_bounds(bounds)
    for name, samples in (("train_set", sets.train), ("val", sets.val), ("test", sets.test)):
        if samples is None:
            continue
        if bounds is not None and (lower, upper) != (0, 1) and are_bytes(samples):
            raise ValueError(
                f"{name} holds bytes, which are pixels from 0 to 1 for the network and the attack: leave the bounds "
                f"({lower:g}, {upper:g}) out and give eps in that unit, 8 / 255; or pass floats"
            )
        low, high = extent(samples)
        if low < lower - 1e-6 or high > upper + 1e-6:
            raise ValueError(
                f"{name} has values from {low:.4g} to {high:.4g}, outside the bounds ({lower:g}, {upper:g}) of the "
                "attack: leave the normalization out of the Dataset and pass normalize=(mean, std), so that eps is in "
                "pixels; or say what inputs can be, fastat.protocol(..., bounds=(lower, upper)) or bounds=None"
            )
    train = sets.train
    return sets._replace(
        train=dataclasses.replace(train, bounds=(lower, upper)) if isinstance(train, Mapped) else train
    )


def network_of(model: nn.Module | str, train_set: AnyDataset, normalize: Normalize, seed: int) -> nn.Module:
    """The network of a run, with the normalization before it.

    Raises:
        TypeError: it is neither module nor name, or wrapped for distributed training or by torch.compile.
        ValueError: it does not take such samples, or there is no network of that name for them.
    """
    if isinstance(model, str):
        if not train_set.classes:
            raise ConfigError("classes", "classes must be given, a list of names, for a network by name")
        models.check_name(model)
        wanted = "data" if normalize is None else normalize
        statistics = _statistics(wanted, train_set)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, WEIGHTS))
            network = models.ModelConfig(model)
            return build_model(network, len(train_set.classes), train_set.image_shape, *statistics)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or the name of a network, got {type(model).__name__}")
    if models.innermost(model) is not model:
        raise TypeError(
            f"model must be the module itself, got {type(model).__name__}: pass what it wraps, and compile=True or, "
            "for several processes, group=..."
        )
    extra = {name: value for name, value in model.state_dict().items() if not isinstance(value, Tensor)}
    if extra:
        kept = io.BytesIO()
        torch.save(extra, kept)
        kept.seek(0)
        try:
            torch.load(kept, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"model has a state that no checkpoint can hold, {', '.join(extra)}: {error}") from error
    if normalize is None:
        return model
    return models.Normalized(model, *_statistics(normalize, train_set))


def logits_count(model: nn.Module, train_set: AnyDataset) -> int:
    """How many logits the network returns for samples of the training set, on which it is tried in eval mode.

    Raises:
        TypeError: it returns no logits.
        ValueError: it fails on them, or what it returns is not ``[B, C]`` with C of at least two.
    """
    where = next((p.device for p in model.parameters()), None)
    if where is None:
        raise ValueError(f"model must have parameters, got {type(model).__name__} without any")
    x = train_set.subset(2, 0).load().to(where).pixels()
    with models.in_eval_mode(model), torch.no_grad():
        try:
            output = model(x)
        except Exception as error:  # whatever the module does
            cure = ". Samples are float32: model.float(), and precision='bf16' for speed" * ("dtype" in str(error))
            raise ValueError(f"model fails on inputs {list(x.shape)}: {type(error).__name__}: {error}{cure}") from error
    logits = models.logits_of(output)
    if logits.dim() != 2 or len(logits) != len(x) or logits.shape[1] < 2:
        got = f"{list(logits.shape)} for {list(x.shape)}"
        raise ValueError(f"model must return logits [B, C] of two classes or more, got {got}")
    return logits.shape[1]


def with_logits(sets: Sets, count: int) -> Sets:
    """The samples with as many classes as there are logits, numbers for those without a name.

    Raises:
        ValueError: there are fewer logits than classes.
    """
    names = [*sets.train.classes, *(str(number) for number in range(len(sets.train.classes), count))]
    if len(names) > count:
        labels = getattr(sets.whole, "labels", None)
        found = "" if labels is None else f"; its labels go from {int(labels.min())} to {int(labels.max())}"
        raise ValueError(f"model returns {count} logits, train_set has {len(names)} classes{found}")
    try:
        train, val, test = (None if part is None else data.with_classes(part, names) for part in sets[:3])
    except ValueError as error:
        raise ValueError(f"val or test: {error}") from error
    assert train is not None
    return sets._replace(train=train, val=val, test=test)


def _statistics(normalize: Normalize, train_set: AnyDataset) -> tuple[Any, Any]:
    if normalize == "data":
        return normalization("data", train_set)
    if not isinstance(normalize, tuple | list) or len(normalize) != 2:
        raise ValueError(f"normalize must be 'data', a pair (mean, std) or None, got {normalize!r}")
    return normalize[0], normalize[1]
