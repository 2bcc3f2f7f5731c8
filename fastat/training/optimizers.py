"""Optimizers by name and of one's own, and steps of theirs that are skipped where a gradient is not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastat.training.config import ConfigError, OptimizerConfig
from fastat.training.in_words import said

OwnOptimizer = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""From the parameters that are trained to their optimizer: ``functools.partial(torch.optim.RAdam, lr=1e-3)``."""


def optimizer_of(settings: OptimizerConfig, model: nn.Module) -> torch.optim.Optimizer:
    """That of the name; normalizations and biases are the parameters of fewer than two dimensions."""
    trained = _trained(model)
    decay = 0.0 if settings.exempt_norm_and_bias else settings.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.dim() > 1]},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": decay},
    ]
    # fused: a skipped step is then skipped on the device, without waiting for it
    shared: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimizer != "sgd":
        adam = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
        made = adam(groups, capturable=trained[0].is_cuda, **shared)  # on a GPU the step may be recorded
        made._warned_capturable_if_run_uncaptured = True  # those that are not run too
        return made
    return _begun(torch.optim.SGD(groups, momentum=settings.momentum, nesterov=settings.nesterov, **shared))


def own_optimizer(function: OwnOptimizer, model: nn.Module) -> torch.optim.Optimizer:
    """What the function makes of the parameters of the model that take a gradient.

    Raises:
        ConfigError: it is no optimizer, holds other parameters, or one whose steps need a closure.
    """
    trained = _trained(model)
    made = function(trained)
    rule = "a function from parameters to a torch.optim.Optimizer of them"
    if not isinstance(made, torch.optim.Optimizer):
        raise ConfigError("optimizer", f"optimizer must be {rule}, this one returned {type(made).__name__}")
    if isinstance(made, torch.optim.LBFGS):
        raise ConfigError("optimizer", f"optimizer must be {rule} that steps without a closure, got LBFGS")
    known = {id(p) for p in trained}
    if any(id(p) not in known for group in made.param_groups for p in group["params"]):
        raise ConfigError("optimizer", f"optimizer must be {rule}, this one's {type(made).__name__} holds others too")
    if any("lr" not in group for group in made.param_groups):
        raise ConfigError("optimizer", f"optimizer must be {rule} with a learning rate lr, got {type(made).__name__}")
    return _begun(made)


def described(optimizer: torch.optim.Optimizer) -> str:
    """An optimizer with its settings, as text: "Adam(lr=0.001, ...)"."""
    groups = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    texts = [", ".join(f"{name}={said(value)!r}" for name, value in group.items()) for group in groups]
    alike = len(set(texts)) == 1
    return f"{type(optimizer).__name__}({texts[0] if alike else '; '.join(texts)})"


def _begun(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same with momenta of zero, where it is SGD: torch would leave them unwritten if the first step is skipped."""
    for group in optimizer.param_groups if isinstance(optimizer, torch.optim.SGD) else ():
        if group["momentum"] > 0 and group["dampening"] == 0:
            for p in group["params"]:
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
    return optimizer


def steps_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step of it takes its learning rate as a tensor, and can be skipped, without the host looking."""
    skips = getattr(optimizer, "_step_supports_amp_scaling", False)
    # of SGD with dampening a skipped first step would leave the momenta unwritten
    return bool(skips) and all(group.get("fused") and not group.get("dampening") for group in optimizer.param_groups)


def step_if(optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
    """A step, if ``finite``, bool 0-d: else weights and state stay as they are."""
    if steps_on_device(optimizer):
        optimizer.found_inf = 1 - finite.float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(finite):
        optimizer.step()


def scale_momenta(optimizer: torch.optim.Optimizer, factor: Tensor) -> None:
    """Momenta of SGD as its next step is to find them, so that ``momentum`` counts as ``factor`` times what it is.

    v <- momentum v + g with a momentum that changes: torch's own is a constant of a recorded step.
    """
    momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
    torch._foreach_mul_(momenta, factor)


def tensors_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The tensors of its state, which its steps write."""
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def trained_names(model: nn.Module) -> list[str]:
    """The names of the parameters that take a gradient."""
    return [name for name, p in model.named_parameters() if p.requires_grad]


def _trained(model: nn.Module) -> list[nn.Parameter]:
    found = [p for p in model.parameters() if p.requires_grad]
    if not found:
        raise ConfigError("model", "model must have parameters that take a gradient, got none")
    return found
