"""Weights of other code: state dicts in the wrappings that the field saves them in, and how they fit a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastat.models.normalized import Normalized
from fastat.support.files import load_checkpoint

_WRAPPINGS = (
    "average", "ema_state_dict", "state_dict_ema", "model_ema", "ema",  # an average is what its run evaluated
    "model_state_dict", "state_dict", "model", "net", "network", "weights", "params",
)  # fmt: skip
_SHOWN = 5


def read_weights(file: Path) -> dict[str, Tensor]:
    """The state dict in a file: of a network alone, or under one of the usual names in a dict.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or holds no state dict; the message has what it holds.
    """
    return weights_in(load_checkpoint(file), file)


def weights_in(saved: Mapping[str, Any], file: Path) -> dict[str, Tensor]:
    """The same of what was loaded from that file."""
    named: Mapping[str, Any] | None = saved
    while named is not None and not _is_state_dict(named):
        inner = [named[key] for key in _WRAPPINGS if isinstance(named.get(key), Mapping)]
        named = inner[0] if inner else None
    if named is None:
        found = ", ".join(map(str, list(saved)[:_SHOWN])) or "nothing"
        raise ValueError(f"{file} holds no weights of a network, nor any named {', '.join(_WRAPPINGS)}; it has {found}")
    return dict(named)


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
    beside = [name for name in weights if not name.startswith(prefix)]
    fitting = {name: t for name, t in given.items() if name in own and t.shape == own[name].shape}
    wrong = [name for name in given if name in own and name not in fitting]
    left = [name for name in wrong if other_classes and given[name].shape[1:] == own[name].shape[1:]]
    left = left if len({name.rpartition(".")[0] for name in left}) == 1 else []
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in own and not (prefix == "" and name in ("mean", "std"))]
    wrong = [name for name in wrong if name not in left]
    if missing or wrong or unexpected:
        raise ValueError(
            f"{file} does not fit the network: "
            + "; ".join(
                text
                for text in (
                    _names("missing", missing),
                    _names("unexpected", unexpected),
                    _names(
                        "of another shape", [f"{n} {list(given[n].shape)}, not {list(own[n].shape)}" for n in wrong]
                    ),
                )
                if text
            )
        )
    network.model.load_state_dict({**own, **fitting})
    notes = [f"{_names('left as initialized, for another number of classes', left)}"] if left else []
    outer = prefix.removesuffix("model.")
    statistics = [weights.get(f"{outer}{name}") for name in ("mean", "std")]
    used = all(t is not None and t.numel() in (1, network.mean.numel()) for t in statistics)
    if used:
        for buffer, t in zip((network.mean, network.std), statistics, strict=True):
            assert t is not None
            buffer.copy_(t.flatten().expand_as(buffer))
    others = [name for name in beside if not (used and name in (f"{outer}mean", f"{outer}std"))]
    return notes + ([_names("not used", others)] if others else [])


def _prefix(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """What stands before the network's own names, where most of them are found."""
    seen = Counter(name[: -len(tail)] for name in weights for tail in _tails(name) if tail in own)
    return max(seen, key=lambda prefix: (seen[prefix], -len(prefix))) if seen else ""


def _tails(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _names(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{what}: {', '.join(names[:_SHOWN])}{more}" if names else ""


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
