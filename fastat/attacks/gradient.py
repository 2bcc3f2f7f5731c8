"""What every attack loop needs of a model: frozen parameters, and gradients to the input alone."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastat.graphs import capturing
from fastat.models import (
    Model,
    any_compiled,
    fresh_casts,
    half_scale,
    is_sharded,
    modules_in_sight,
    unwrapped,
    watched,
)


class Modules:
    """The modules of a model that matter for an attack: all that a module has, and of those that a function refers to
    the ones that it was seen to run."""

    def __init__(self, model: Model) -> None:
        self.all_run = isinstance(model, nn.Module)
        self.in_sight = [m for m in modules_in_sight(model) if m.training or isinstance(m, _BatchNorm)]
        self.seen: set[nn.Module] = set()

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """Notes within the block which modules in sight of a function run."""
        watched = [] if self.all_run else self.in_sight
        handles = [module.register_forward_pre_hook(lambda m, _: self.seen.add(m)) for module in watched]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def running(self) -> list[nn.Module]:
        """Those that are in train mode or batch norm, as far as is known by now."""
        return self.in_sight if self.all_run else [m for m in self.in_sight if m in self.seen]

    def couple_samples(self) -> bool:
        """Whether a forward pass normalizes by the batch."""
        return any(isinstance(m, _BatchNorm) and (m.training or m.running_mean is None) for m in self.running)


@contextmanager
def attacking(model: Model, device: torch.device) -> Iterator[Model]:
    """Gradients on, also inside no_grad and inference_mode, and no gradient of a parameter computed until the end; the
    model to call meanwhile, which is the one inside of a DistributedDataParallel.

    Compiled code computes the gradients of all parameters that require one, whoever asks, and so may functions written
    in Python: they are frozen. Three kinds of weights stay as they are, since torch's own functions do not compute what
    nobody asks for. The matrices of linear layers and attention: torch multiplies a batch of sequences by a frozen one
    sample by sample, on a CPU several times slower; their layers keep their inputs for the backward pass, as in
    training. Under autocast all: only weights that require a gradient are cast once for all steps rather than in each.
    And what FSDP2 shards: frozen when it is gathered, it would stay so for as long as it is kept gathered. What was
    cast before or within is forgotten: it may be old, or without gradient.
    """
    casts = torch.is_autocast_enabled(device.type) and torch.is_autocast_cache_enabled()
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    parameters = list(model.parameters()) if isinstance(model, nn.Module) else []
    kept = set() if any_compiled(model) else set(parameters) if casts else _matrices(modules)
    frozen = [] if is_sharded(model) else [p for p in parameters if p.requires_grad and p not in kept]
    telling = watched(model, "attacks it with frozen parameters") if frozen else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), fresh_casts(), unwrapped(model) as bare, telling:
        try:
            for p in frozen:
                p.requires_grad_(False)
            yield bare
        finally:
            for p in frozen:
                p.requires_grad_(True)


def to_the_input(ascended: Tensor, leaf: Tensor, seed: Tensor | None) -> Tensor | None:
    """The gradient with respect to the leaf, None if there is none. Through float16 it is scaled on its way; samples
    that this carries out of the range are gone back for without it."""
    scale = half_scale(ascended)
    if scale == 1:
        return torch.autograd.grad(ascended, leaf, seed, allow_unused=True)[0]
    seed = torch.ones_like(ascended) if seed is None else seed
    again = not capturing(leaf)
    grad = torch.autograd.grad(ascended, leaf, scale * seed, allow_unused=True, retain_graph=again)[0]
    if grad is None:
        return None
    finite = grad.flatten(1).isfinite().all(1)
    if again and not bool(finite.all()):
        plain = torch.autograd.grad(ascended, leaf, seed)[0]
        return torch.where(finite.view(-1, *[1] * (grad.dim() - 1)), grad / scale, plain)
    return grad / scale


def _matrices(modules: Iterable[nn.Module]) -> set[nn.Parameter]:
    """The weights of linear layers and attention."""
    layers = (module for module in modules if isinstance(module, nn.Linear | nn.MultiheadAttention))
    return {p for layer in layers for p in layer.parameters(recurse=False) if p.dim() == 2}
