"""Networks whose parameters FSDP2 (torch.distributed.fsdp.fully_shard) keeps in parts, one for each process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from fastat.models.access import Model


def is_sharded(model: Model) -> bool:
    """Whether FSDP2 shards parameters of the model."""
    return bool(_sharded(model))


def reshard(model: Model) -> None:
    """Lets go of gathered parameters: the next pass gathers them as the shards are then."""
    for module in _sharded(model):
        module.reshard()


@contextmanager
def keep_gathered(model: nn.Module) -> Iterator[None]:
    """Within the block, parameters that FSDP2 shards stay gathered from their first use to the block's end.

    Each step of an attack gathers them twice otherwise, for its forward and its backward pass. Costs the memory of the
    whole network. The optimizer had better step after the block; shards that it moved are gathered anew::

        with fastat.keep_gathered(model):
            loss = protocol(model, x, y)
            loss.backward()
        optimizer.step()

    A model without such parameters is left alone.
    """
    modules = _sharded(model)
    states = [module._get_fsdp_state() for module in modules]
    groups = [group for state in states for group in _groups(state)]
    before = [(group, group.post_forward_mesh_info, group.reshard_after_backward) for group in groups]
    automatic = [(state, state._auto_reshard_after_forward) for state in states]
    seen: dict[Any, list[int]] = {}

    def gather_what_moved(module: Any, _: Any) -> None:
        shards = [one.sharded_param for group in _groups(module._get_fsdp_state()) for one in group.fsdp_params]
        now = [shard._version for shard in shards]
        if seen.setdefault(module, now) != now:
            module.reshard()
            seen[module] = now

    hooks = [module.register_forward_pre_hook(gather_what_moved, prepend=True) for module in modules]
    try:
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.set_reshard_after_backward(False, recurse=False)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for group, after_forward, after_backward in before:
            group.post_forward_mesh_info, group.reshard_after_backward = after_forward, after_backward
        for state, value in automatic:
            state._auto_reshard_after_forward = value
        reshard(model)


def _sharded(model: Model) -> list[Any]:
    """The modules that FSDP2 was applied to; its class is not asked for, whose import takes a while."""
    modules = model.modules() if isinstance(model, nn.Module) else []
    return [module for module in modules if hasattr(module, "set_reshard_after_backward")]


def _groups(state: Any) -> list[Any]:
    """The groups of parameters of one module; until torch 2.11 it has one or none."""
    if hasattr(state, "_fsdp_param_groups"):
        return list(state._fsdp_param_groups)
    return [] if state._fsdp_param_group is None else [state._fsdp_param_group]
