"""Weights of other code: state dicts in the wrappings that the field saves them in, and how they fit a network."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastat.models.normalized import Normalized
from fastat.support.files import load_checkpoint
from fastat.support.files.foreign_json import shortly

_WRAPPINGS = (
    "average", "ema_state_dict", "state_dict_ema", "model_ema", "ema",  # an average is what its run evaluated
    "model_state_dict", "state_dict", "model", "net", "network", "weights", "params",
)  # fmt: skip
_DEEPEST = 5
"""How many wrappings there may be around each other."""
_SHOWN = 5


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a file: of a network alone, or under one of the usual names in a dict.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or holds no state dict; the message has what it holds.
    """
    saved = load_checkpoint(file)
    named: Mapping[str, Any] = saved
    for _ in range(_DEEPEST):
        if not _is_state_dict(named):
            named = next((named[key] for key in _WRAPPINGS if isinstance(named.get(key), Mapping)), {})
    if not _is_state_dict(named):
        found = ", ".join(shortly(name) for name in list(saved)[:_SHOWN]) or "nothing"
        raise ValueError(f"{file} holds no weights of a network, nor any named {', '.join(_WRAPPINGS)}; it has {found}")
    check_tensors(named, file)
    return dict(named)


def check_tensors(weights: Mapping[str, Any], file: Path) -> None:
    """Raises ValueError, which names the file and the first of them, for tensors that are not plain ones in memory:
    sparse, nested, quantized, or without numbers ("meta")."""
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            continue
        kinds = {
            "nested": value.is_nested,
            "quantized": value.is_quantized,
            "sparse": value.layout != torch.strided,
            f"on {value.device}": not value.is_cpu,
        }
        if odd := [kind for kind, holds in kinds.items() if holds]:
            raise ValueError(f"{file}: {shortly(name)} is {odd[0]}: save the weights as plain tensors on the CPU")


def _is_state_dict(value: Mapping[str, Any]) -> bool:
    return bool(value) and all(isinstance(key, str) and isinstance(t, Tensor) for key, t in value.items())


def load_weights(network: Normalized, weights: Mapping[str, Tensor], file: Path, *, other_classes: bool) -> list[str]:
    """Copies weights of other code into a network, and says in sentences what is worth to know of that.

    Prefixes that wrappers leave (``module.``, ``model.``) are found by what fits. Where the weights come with a
    ``mean`` and ``std`` of the channels beside them, these normalize.

    Args:
        network: what is loaded into, on the CPU.
        file: where the weights are from, for messages.
        other_classes: the classifier may be one for another number of classes, and then stays as it is.

    Raises:
        ValueError: they do not fit; the message has the missing and unexpected names and the shapes that differ.
    """
    own = network.model.state_dict()
    prefix = _prefix(weights, own)
    given = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    statistics = _take_statistics(network, weights, prefix.removesuffix("model."))
    given = {name: t for name, t in given.items() if prefix + name not in statistics}
    wrong = [name for name, t in given.items() if name in own and t.shape != own[name].shape]
    left = [name for name in wrong if other_classes and given[name].shape[1:] == own[name].shape[1:]]
    if len({name.rpartition(".")[0] for name in left}) != 1:  # more than one layer: no classifier
        left = []
    fitting = {name: t for name, t in given.items() if name not in wrong}
    # a network's own loading may know older names, and names that are of no use
    loaded = copy.deepcopy(network.model).load_state_dict(dict(fitting), strict=False)
    missing = [name for name in loaded.missing_keys if name not in wrong and not name.endswith("num_batches_tracked")]
    shapes = [f"{n} {list(given[n].shape)}, not {list(own[n].shape)}" for n in wrong if n not in left]
    problems = [("missing", missing), ("unexpected", loaded.unexpected_keys), ("of another shape", shapes)]
    if texts := [_names(what, names) for what, names in problems if names]:
        raise ValueError(f"{file} does not fit the network: {'; '.join(texts)}")
    network.model.load_state_dict(fitting, strict=False)
    unused = [name for name in weights if not name.startswith(prefix) and name not in statistics]
    notes = [("left as initialized, for another number of classes", left), ("not used", unused)]
    return [_names(what, names) for what, names in notes if names]


def _take_statistics(network: Normalized, weights: Mapping[str, Tensor], place: str) -> list[str]:
    """Normalizes by the mean and deviation of the channels at that place, if they are there; their names."""
    names = [f"{place}mean", f"{place}std"]
    if not all(name in weights and weights[name].numel() in (1, network.mean.numel()) for name in names):
        return []
    for buffer, name in zip((network.mean, network.std), names, strict=True):
        buffer.copy_(weights[name].flatten().expand_as(buffer))
    return names


def _prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What stands before the network's own names, where most of them are found."""
    seen = Counter(name[: -len(tail)] for name in weights for tail in _tails(name) if tail in own)
    return max(seen, key=lambda prefix: (seen[prefix], -len(prefix))) if seen else ""


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _names(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}"


def closest_network(weights: Mapping[str, Tensor], networks: Mapping[str, Callable[[], nn.Module]]) -> str:
    """The name of the network that most of the weights have name and shape of; empty if none has half of them."""
    scores = {}
    for name, make in networks.items():
        with torch.device("meta"):
            own = make().state_dict()
        prefix = _prefix(weights, own)
        shapes = {key.removeprefix(prefix): t.shape for key, t in weights.items() if key.startswith(prefix)}
        scores[name] = sum(shapes.get(key) == t.shape for key, t in own.items()) / max(len(own), len(shapes))
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 0.5 else ""
