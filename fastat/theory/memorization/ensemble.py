"""Many small networks trained at once, each on its own random subset: one batched kernel in place of many small ones.

The parameters of K networks are stacked, torch.func.vmap turns the forward pass of one into that of all (a linear layer
becomes a batched product, a convolution a grouped one). The gradient of the sum of their losses holds each network's
own gradient, and SGD works elementwise, so that autograd and the optimizer need not know that there are K of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from fastat.data import Dataset
from fastat.support.keyed import derive_seed, keyed_hash

_SUBSET, _WEIGHTS, _ORDER = 0x5AB5E7, 0x3E1647, 0x0D3  # purposes in the keys of the random numbers
_EVALUATED_AT_ONCE = 500


@dataclass(frozen=True)
class Recipe:
    """How every network is trained: SGD on the cross-entropy, half a cosine from lr to 0, no augmentation.

    The defaults are for :func:`small_mlp` on digits; they fit the training subset completely.
    """

    epochs: int = 40
    """Passes over the subset."""
    batch_size: int = 64
    """Images per step of one network; what is left over is another part of the subset in every epoch."""
    lr: float = 0.3
    """Learning rate of the first step."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """L2 penalty on every parameter."""


@dataclass(frozen=True)
class Networks:
    """K networks of one architecture.

    Attributes:
        module: the architecture; its own weights are not used.
        parameters: the stacked parameters, [K, ...] each.
        buffers: the stacked buffers, [K, ...] each.
    """

    module: nn.Module
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def logits(self, x: Tensor) -> Tensor:
        """Logits [K, B, classes] of pixels x: of images of their own, [K, B, C, H, W], or shared ones, [B, C, H, W]."""
        own = 0 if x.dim() == 5 else None
        return vmap(self._one, in_dims=(0, 0, own))(self.parameters, self.buffers, x)

    @torch.no_grad()
    def correct(self, dataset: Dataset) -> Tensor:
        """bool [K, N]: which images of the dataset each network classifies correctly."""
        found = []
        for images, labels in zip(
            dataset.images.split(_EVALUATED_AT_ONCE), dataset.labels.split(_EVALUATED_AT_ONCE), strict=True
        ):
            found.append(self.logits(dataset.pixels(images)).argmax(2) == labels)
        return torch.cat(found, 1)

    def _one(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.module, (parameters, buffers), (x,))
        return logits


def subset(ids: Tensor, size: int, seed: int, index: int) -> Tensor:
    """Positions, int64 [size] in ascending order, of the random subset that network ``index`` is trained on.

    A function of the seed, the index and the ids alone, whatever networks are trained beside it.
    """
    return torch.argsort(keyed_hash(ids, seed, index, _SUBSET), stable=True)[:size].sort().values


def batch_order(ids: Tensor, members: Tensor, seed: int, index: int, epoch: int) -> Tensor:
    """The positions ``members`` in the order that network ``index`` sees them in during an epoch, from 0."""
    return members[torch.argsort(keyed_hash(ids[members], seed, index, epoch, _ORDER), stable=True)]


def initial_network(model_fn: Callable[[], nn.Module], seed: int, index: int) -> nn.Module:
    """Network ``index`` before its training; torch's generator is left as found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, index, _WEIGHTS))
        return model_fn()


def learning_rate(recipe: Recipe, progress: float) -> float:
    """The learning rate when the fraction ``progress`` of the training, in [0, 1], is over."""
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * progress))


def train_networks(
    model_fn: Callable[[], nn.Module],
    train: Dataset,
    members: Sequence[Tensor],
    indices: Sequence[int],
    recipe: Recipe,
    seed: int,
    after_epoch: Callable[[int], None],
) -> Networks:
    """Trains the networks of these indices together, network indices[k] on the positions members[k] of train.

    Initial weights and orders depend on (seed, index) alone. The sums in batched products may be rounded differently
    when other networks are trained beside, so that the trained weights are the same to rounding only.

    Args:
        model_fn: builds a network for :func:`check_stateless`.
        train: on the device to train on.
        members: int64 positions on the CPU, equally many for each network.
        indices: one per network.
        recipe: how to train.
        seed: seed of the weights and the orders.
        after_epoch: called with the number of epochs done.

    Raises:
        FloatingPointError: a loss is infinite or NaN; the message names the network and the epoch.
    """
    device = train.images.device
    networks = _stack([initial_network(model_fn, seed, index).to(device).train() for index in indices])
    optimizer = torch.optim.SGD(
        networks.parameters.values(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )
    ids = train.ids.cpu()
    batch_size = min(recipe.batch_size, len(members[0]))
    steps = len(members[0]) // batch_size
    for epoch in range(recipe.epochs):
        orders = [batch_order(ids, own, seed, index, epoch) for own, index in zip(members, indices, strict=True)]
        for step, index in enumerate(_batches(torch.stack(orders).to(device), batch_size)):
            progress = (epoch * steps + step + 0.5) / (recipe.epochs * steps)
            optimizer.param_groups[0]["lr"] = learning_rate(recipe, progress)
            losses = _step(networks, optimizer, train, index)
        _check_finite(losses, indices, epoch)
        after_epoch(epoch + 1)
    networks.module.eval()
    return networks


def check_stateless(model: nn.Module, train: Dataset) -> None:
    """Raises ValueError if a network cannot be trained as one of a stack, or does not fit the dataset."""
    x = train.pixels(train.images[:2])
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        logits, again = model.train()(x), model(x)
    changed = [name for name, buffer in model.named_buffers() if not buffer.equal(before[name])]
    if changed:
        raise ValueError(
            f"training changes the buffers {', '.join(changed)} of the network, as batch norm does: networks trained "
            f"as one stack must be stateless; use GroupNorm, or no normalization"
        )
    if not logits.equal(again):
        raise ValueError(
            "the network gives other logits each time, as dropout does: networks trained as one stack must not draw"
        )
    if logits.shape != (len(x), len(train.classes)):
        expected = [len(x), len(train.classes)]
        raise ValueError(f"for pixels {[*x.shape]} the network must return logits {expected}, got {[*logits.shape]}")


def _stack(models: list[nn.Module]) -> Networks:
    parameters, buffers = stack_module_state(models)
    return Networks(models[0], parameters, buffers)


def _batches(orders: Tensor, batch_size: int) -> Iterator[Tensor]:
    """The full batches of an epoch: positions [K, batch_size] each."""
    return (part for part in orders.split(batch_size, 1) if part.shape[1] == batch_size)


def _step(networks: Networks, optimizer: torch.optim.Optimizer, train: Dataset, index: Tensor) -> Tensor:
    """One step of SGD of every network, at the positions index [K, B]; their mean losses [K]."""
    logits = networks.logits(train.pixels(train.images[index]))
    each = F.cross_entropy(logits.flatten(0, 1), train.labels[index].flatten(), reduction="none")
    losses = each.view(index.shape).mean(1)
    optimizer.zero_grad()
    losses.sum().backward()
    optimizer.step()
    return losses.detach()


def _check_finite(losses: Tensor, indices: Sequence[int], epoch: int) -> None:
    finite = losses.isfinite()
    if not bool(finite.all()):
        bad = indices[int((~finite).nonzero()[0])]
        raise FloatingPointError(f"the loss of network {bad} is not finite in epoch {epoch + 1}; a lower lr may help")
