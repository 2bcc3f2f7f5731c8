"""Logits and penultimate features of a classifier in one forward pass, without a change to its code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from fastat.models.access import Model, innermost, logits_of, run_eagerly

Features = str | Callable[[Model, Tensor], tuple[Tensor, Tensor]] | None
"""Where a model's features are: the name of a module, a function (model, x) -> (logits, features), or None."""


def with_features(model: Model, features: Features = None) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The model as a function from inputs ``[B, ...]`` to (logits ``[B, C]``, features ``[B, D]``), in one pass.

    Both carry the gradient. Nothing stays on the model: hooks live during a call only, also where it raises. Under
    DistributedDataParallel the call goes through the wrapper, so that gradients are synchronized. A compiled model runs
    uncompiled in these calls, since compiled code passes hooks by; it keeps its speed where it returns the features
    itself and ``features`` is the function that says so, ``lambda model, x: model(x)``. What is returned can be pickled
    where the model and a function ``features`` can.

    Args:
        model: returns logits ``[B, C]``, or (logits, features).
        features: None for what the model returns beside its logits, or else for the input of the ``nn.Linear`` that
            makes the logits; the dotted name of a module (``model.named_modules()``) for that module's output, in its
            last call; or a function ``(model, x) -> (logits, features)``. Features are flattened to ``[B, D]``.

    Raises:
        ValueError: here for an unknown module name; in a call if the named module is not used, if its output is no
            tensor ``[B, ...]`` or is overwritten in place before the pass ends, if no linear layer makes the logits, or
            if the logits are not ``[B, C]``. The message says what was found.
    """
    if isinstance(features, str):
        return partial(_module_output, model, {features: _submodule(model, features)})
    if features is None:
        return partial(_classifier_input, model)
    return partial(_of_function, model, features)


class _Call(NamedTuple):
    """What a module took and gave, and how often each had been written to by then."""

    name: str
    taken: Any
    given: Any
    versions: tuple[int, int]


@contextmanager
def _calls(model: Model, modules: dict[str, nn.Module]) -> Iterator[list[_Call]]:
    """The calls of these modules of the model within the block, in their order."""
    calls: list[_Call] = []

    def record(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            taken = args[0] if args else next(iter(kwargs.values()), None)
            calls.append(_Call(name, taken, output, (_version(taken), _version(output))))

        return hook

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(record(name), with_kwargs=True))
        with run_eagerly(model):  # code compiled before the hooks came does not call them
            yield calls
    finally:
        for handle in handles:
            handle.remove()


def _of_function(
    model: Model, features: Callable[[Model, Tensor], tuple[Tensor, Tensor]], x: Tensor
) -> tuple[Tensor, Tensor]:
    return _checked(features(model, x), x)


def _classifier_input(model: Model, x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and features of a model that returns both, or the input of the linear layer that makes the logits."""
    inner = innermost(model)
    modules = inner.named_modules() if isinstance(inner, nn.Module) else []
    with _calls(model, {name: module for name, module in modules if isinstance(module, nn.Linear)}) as calls:
        output = model(x)
    if _is_pair(output):
        return _checked(output, x)
    output = logits_of(output)
    # what follows the layer (a temperature, a log-softmax, DDP's own bookkeeping) makes another tensor of its output
    made = [call for call in calls if call.given is output][-1:] or [
        call for call in calls if call.given.shape == output.shape and _made_of(output, call.given)
    ][-1:]
    if not made:
        seen = ", ".join(f"{call.name or 'the model'} {list(call.given.shape)}" for call in calls) or "none"
        raise ValueError(
            f"cannot tell which linear layer makes the logits {list(output.shape)} (linear layers called: {seen}): "
            f"name the module whose output are the features, one of {_names(inner)}"
        )
    taken = _unchanged(made[0].taken, made[0].versions[0], f"the input of {made[0].name!r}")
    return _checked((output, taken), x)


def _made_of(output: Tensor, given: Tensor) -> bool:
    """Whether the graph leads from the output back to ``given`` and meets no other parameter on the way."""
    found, seen = False, set()
    nodes = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node is given.grad_fn:
            found = True
        elif hasattr(node, "variable"):
            return False
        else:
            nodes += [before for before, _ in node.next_functions]
    return found


def _module_output(model: Model, module: dict[str, nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the output of a module."""
    (name,) = module
    with _calls(model, module) as calls:
        output = model(x)
    if not calls:
        raise ValueError(
            f"features {name!r}: the model did not call that module; others are {_names(innermost(model))}"
        )
    given = calls[-1].given
    if not isinstance(given, Tensor):
        raise ValueError(f"features {name!r}: the output of that module is a {type(given).__name__}, not a tensor")
    logits = _pair(output)[0] if _is_pair(output) else logits_of(output)
    return _checked((logits, _unchanged(given, calls[-1].versions[1], f"the output of {name!r}")), x)


def _is_pair(output: Any) -> bool:
    return isinstance(output, tuple | list) and not hasattr(output, "logits")


def _pair(output: Any) -> tuple[Any, Any]:
    if isinstance(output, tuple | list) and len(output) == 2:
        return output[0], output[1]
    found = f"{len(output)} values" if isinstance(output, tuple | list) else f"a {type(output).__name__}"
    raise ValueError(f"the model must return logits, or (logits, features), got {found}")


def _checked(found: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    logits, features = _pair(found)
    batch = x.shape[0]
    for name, value, form in (("logits", logits, "C"), ("features", features, "...")):
        fits = isinstance(value, Tensor) and value.dim() >= 2 and value.shape[0] == batch
        if not fits or (name == "logits" and value.dim() != 2):
            shape = list(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{name} must be [{batch}, {form}], got {shape}")
    return logits, features.flatten(1)


def _unchanged(value: Tensor, version: int, what: str) -> Tensor:
    if _version(value) != version:
        raise ValueError(
            f"features: {what} is overwritten by a later layer that works in place; name that layer instead"
        )
    return value


def _version(value: Any) -> int:
    # inference tensors do not count what is written to them
    return -1 if not isinstance(value, Tensor) or value.is_inference() else value._version


def _submodule(model: Model, name: str) -> nn.Module:
    inner = innermost(model)
    modules = dict(inner.named_modules()) if isinstance(inner, nn.Module) else {}
    if name not in modules:
        raise ValueError(f"features {name!r} is no module of the model; it has {_names(inner)}")
    return modules[name]


def _names(model: Model) -> str:
    names = [name for name, _ in model.named_modules() if name] if isinstance(model, nn.Module) else []
    return ", ".join(names) or "no modules"
