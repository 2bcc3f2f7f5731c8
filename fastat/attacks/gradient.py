"""What every attack loop needs of a model: frozen parameters, the loss, and its gradient to the input alone."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastat.graphs import capturing
from fastat.kernels import ops
from fastat.models import (
    Model,
    any_compiled,
    class_logits,
    fresh_casts,
    half_scale,
    is_sharded,
    modules_in_sight,
    unwrapped,
)

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""``(model output, y) -> loss [B]``."""


def couples_samples(model: Model) -> bool:
    """Whether a forward pass normalizes by the batch, as far as the modules tell that ``model`` has or refers to."""
    modules = modules_in_sight(model)
    return any(isinstance(m, _BatchNorm) and (m.training or m.running_mean is None) for m in modules)


def ascended(loss: ops.LossKind | LossFunction, model: Model, training: bool) -> ops.LossKind | LossFunction:
    """What an attack with this loss ascends: in place of the cross-entropy, where samples are independent, the log-odds
    against the label.

    At every sample both have gradients of one direction, and the steps ignore how long they are; but those of the
    log-odds do not vanish where the network is sure. Where the output of a sample depends on others, other lengths
    would be another direction: there, and in training, whose recipes are the textbook's, it stays the cross-entropy.
    """
    return "log_odds" if loss == "ce" and not training and not couples_samples(model) else loss


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
    with torch.inference_mode(False), torch.enable_grad(), fresh_casts(), unwrapped(model) as bare:
        try:
            for p in frozen:
                p.requires_grad_(False)
            yield bare
        finally:
            for p in frozen:
                p.requires_grad_(True)


def _to_the_input(ascended: Tensor, leaf: Tensor, seed: Tensor | None) -> Tensor | None:
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


@dataclass(frozen=True)
class Objective:
    """The loss an attack ascends on its samples, and when it has won.

    With ``targets`` it is the negative loss towards the target (except for dlr_targeted, which holds both labels), and
    the attack has won a sample when the model predicts its target; without, when it does not predict ``y``.
    ``check_classes`` is told how many classes the model has, and may raise.
    """

    forward: Model
    loss: ops.LossKind | LossFunction
    y: Tensor
    check_classes: Callable[[int], None]
    targets: Tensor | None = None
    reference: Tensor | None = None

    def won(self, output: Any) -> Tensor:
        """bool ``[B]``."""
        logits = class_logits(output)
        if logits.dim() != 2:
            raise ValueError("early_stop and restarts need a model that returns logits [B, C]")
        predicted = logits.argmax(dim=1)
        return predicted != self.y if self.targets is None else predicted == self.targets

    def value(self, x: Tensor) -> tuple[Any, Tensor]:
        """``(output, loss [B])`` without a gradient."""
        with torch.no_grad():
            output = self._output(x.clone())  # the model's first layer may work in place
            return output, self._loss(output)[0]

    def gradient(self, x: Tensor) -> tuple[Any, Tensor, Tensor]:
        """``(output, loss [B], gradient of each sample's loss with respect to x)``."""
        leaf = x.detach().requires_grad_()
        output = self._output(leaf)
        loss, grad_logits = self._loss(output)
        ascended, seed = (output, grad_logits) if grad_logits is not None else (loss.sum(), None)
        grad = _to_the_input(ascended, leaf, seed) if ascended.requires_grad else None
        if grad is None:
            raise ValueError(
                "the loss has no gradient with respect to x: does the model depend on x, without detach()?"
            )
        return output, loss.detach(), grad

    def _output(self, x: Tensor) -> Any:
        """What the model returns; for a compiled loss, the logits in it."""
        output = self.forward(x)
        if callable(self.loss):
            if isinstance(output, Tensor) and output.dim() == 2:
                self.check_classes(output.shape[1])
            return output
        logits = class_logits(output)
        if logits.dim() != 2 or logits.shape[0] != x.shape[0]:
            raise ValueError(f"the model must return logits [{x.shape[0]}, C], got {list(logits.shape)}")
        self.check_classes(logits.shape[1])
        return logits

    def _loss(self, output: Any) -> tuple[Tensor, Tensor | None]:
        """The loss to ascend and, for the compiled losses, its gradient with respect to the logits."""
        if callable(self.loss):
            y, sign = (self.y, 1.0) if self.targets is None else (self.targets, -1.0)
            loss = self.loss(output, y)
            if loss.shape != y.shape:
                shapes = f"{list(y.shape)}, got {list(loss.shape)}"
                raise ValueError(f"loss(output, y) must return one loss per sample {shapes}")
            return sign * loss, None
        flat = output.detach()
        if self.loss == "dlr_targeted":
            return ops.attack_loss(flat, self.y, self.loss, targets=self.targets)
        if self.targets is None:
            return ops.attack_loss(flat, self.y, self.loss, reference=self.reference)
        loss, grad = ops.attack_loss(flat, self.targets, self.loss)
        return -loss, -grad
