"""Adversarial weight perturbation, AWP (Wu, Xia, Wang, "Adversarial weight perturbation helps robust generalization",
NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastat.models import OF_A_LOSS, Model, buffers_put_back, directions, half_scale, is_sharded, reshard
from fastat.support.distributed import Group, mean_


@contextmanager
def perturbed_weights(
    model: Model, loss: Callable[[], Tensor], gamma: float, group: Group | None = None
) -> Iterator[None]:
    """Within the block every weight w stands at ``w + gamma ||w|| g / ||g||``, g the gradient of the loss at w.

    One ascent step in weight space, layer by layer, on weights of two and more dimensions (biases and batch norm stay).
    The gradient of the perturbed loss is taken and the optimizer steps within the block; at its end the perturbation is
    taken off again, as in the authors' code. Buffers are left as found by the gradient's own forward pass.

    Args:
        model: its parameters are moved in place; also those that FSDP2 shards.
        loss: computes the loss, 0-d with gradient; past DistributedDataParallel, which waits for one backward pass.
        gamma: size of the perturbation relative to the weights; 0 does nothing.
        group: the process group over which the batch is spread, whose mean gradient is taken; None for that of
            DistributedDataParallel or FSDP2 where the model has one. Other processes that share weights must name it
            (a framework's wrapper is not in sight within its training step): perturbed differently, their weights would
            drift apart.

    Raises:
        TypeError: the model is a function, whose weights are out of sight.
        ValueError: there is no weight to move, gradients are off, FSDP2 does not exchange them in this pass, or there
            are several processes and nothing says which of them share the weights.
    """
    if gamma == 0:
        yield
        return
    if not isinstance(model, nn.Module):
        raise TypeError(f"AWP moves the weights of a module, got {model!r}")
    if not torch.is_grad_enabled():
        raise ValueError("AWP takes gradients of the weights: it cannot be within no_grad or inference_mode")
    reshard(model)
    weights = [p for p in model.parameters() if p.requires_grad and p.dim() > 1]
    if not weights:
        raise ValueError("AWP moves weights of two and more dimensions, of which the model has none to train")
    group = None if is_sharded(model) else group or _group_of(model)
    with buffers_put_back(model):
        gradients = _sharded_gradients(model, loss, weights) if is_sharded(model) else directions(loss(), weights)
    mean_(gradients, group)
    with torch.no_grad():
        steps = [_step(w, g, gamma) for w, g in zip(weights, gradients, strict=True)]
        moved = [_own(weight) for weight in weights]
        old_weights = [weight.clone() for weight in moved]
        for weight, step in zip(moved, steps, strict=True):
            weight.add_(step)
    reshard(model)
    torch.clear_autocast_cache()  # it may hold the weights as they were
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old, step in zip(moved, old_weights, steps, strict=True):
                weight.copy_(old + (weight - (old + step)))  # exactly the old one where the optimizer did nothing
        reshard(model)


def _sharded_gradients(model: nn.Module, loss: Callable[[], Tensor], weights: list[nn.Parameter]) -> list[Tensor]:
    """FSDP2 makes the gradient of a shard, the mean over the processes, in a backward pass only."""
    before = [(p, p.grad) for p in model.parameters()]
    try:
        for p, _ in before:
            p.grad = None
        value = loss()
        (half_scale(value, OF_A_LOSS) * value).backward()
        if all(w.grad is None for w in weights):
            raise ValueError(
                "AWP on FSDP2 needs the gradients that are exchanged in every pass: set_requires_gradient_sync(True), "
                "also where they are added up over several"
            )
        return [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    finally:
        for p, grad in before:
            p.grad = grad


def _group_of(model: nn.Module) -> Group | None:
    found = [module.process_group for module in model.modules() if isinstance(module, DistributedDataParallel)]
    if not found and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        raise ValueError(
            "AWP needs group=, the processes that share these weights (torch.distributed.group.WORLD, or a group of "
            "this one alone), or the model in its DistributedDataParallel: else the weights would drift apart"
        )
    return found[0] if found else None


def _step(weight: Tensor, gradient: Tensor, gamma: float) -> Tensor:
    step = gamma * _norm(weight) * _own(gradient) / (_norm(gradient) + 1e-12)
    return step.nan_to_num(0, 0, 0)  # a weight that it made NaN would stay NaN


def _norm(t: Tensor) -> Tensor:
    """Of the whole tensor, where this process has a shard of it."""
    norm = t.norm()
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _own(t: Tensor) -> Tensor:
    """What this process has of a tensor."""
    to_local = getattr(t.detach(), "to_local", None)
    return t if to_local is None else to_local()
