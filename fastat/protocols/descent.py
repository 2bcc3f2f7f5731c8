"""What a protocol does with a batch: the attack, then the objective where that led."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fastat.attacks import check_batch
from fastat.graphs import Graph
from fastat.kernels.arguments import widened
from fastat.models import Model, is_sharded, logits_of, modes_kept, unwrapped, with_features
from fastat.objectives import gradient_misalignment
from fastat.protocols.attack import Attack, AttackFunction, stepped
from fastat.protocols.losses import CrossEntropy, Loss, LossFunction, Mart, Trades
from fastat.protocols.objective import BatchOutput, Benign, Holistic, Mean, Objective, ObjectiveFunction
from fastat.support.distributed import Group
from fastat.support.threat import Bounds


@dataclass(frozen=True)
class Batch:
    """Inputs, labels, ids of the samples and the seed of this step; and the processes that share the whole batch."""

    x: Tensor
    y: Tensor
    ids: Tensor
    seed: int | Tensor
    group: Group | None


def adversarial(
    attack: Attack | AttackFunction, model: Model, batch: Batch, delta: Tensor | None, graph: Graph, validate: bool
) -> Tensor:
    """The adversarial examples of a batch; for attack "free" a leaf that takes a gradient."""
    x = batch.x
    if not isinstance(attack, Attack):
        return _of_function(attack, model, batch)
    if attack.kind != "free":
        return attack(model, x, batch.y, seed=batch.seed, sample_ids=batch.ids, graph=graph, validate=validate)
    if delta is None or _kind(delta) != _kind(x) or delta.requires_grad:
        found = "None" if delta is None else _kind(delta) + (" that takes a gradient" if delta.requires_grad else "")
        raise ValueError(f"delta must be like x, {_kind(x)}, torch.zeros_like(x) at first, got {found}")
    if validate:
        check_batch(x, batch.y, attack.bounds, batch.ids)
    return stepped(x, delta, attack.bounds)


def _kind(t: Tensor) -> str:
    return f"{list(t.shape)} of {t.dtype} on {t.device}"


def _of_function(attack: AttackFunction, model: Model, batch: Batch) -> Tensor:
    """What an attack of one's own makes: given the model without wrappers, and seed and ids if it takes them."""
    keys = {"seed": batch.seed, "sample_ids": batch.ids}
    taken = _parameters(attack)
    with modes_kept(model), unwrapped(model) as bare:
        x_adv: Any = attack(bare, batch.x, batch.y, **{name: key for name, key in keys.items() if name in taken})
    if not isinstance(x_adv, Tensor) or x_adv.shape != batch.x.shape:
        found = list(x_adv.shape) if isinstance(x_adv, Tensor) else type(x_adv).__name__
        raise ValueError(f"attack(model, x, y) must return a tensor like x, {list(batch.x.shape)}, got {found}")
    return x_adv.detach()


def _parameters(function: Callable[..., Any]) -> set[str]:
    try:
        return set(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some built-in ones have none
        return set()


def descended(
    loss: Loss | LossFunction, objective: Objective | ObjectiveFunction, model: Model, batch: Batch, x_adv: Tensor
) -> tuple[Tensor, Tensor]:
    """The objective at the adversarial examples, and the logits there. One pass goes through wrappers, which expect one
    for each backward."""
    clean = features = None
    if isinstance(loss, Trades | Mart):
        with unwrapped(model) as bare:
            clean = widened(logits_of(bare(batch.x.clone())))  # the first layer may work in place
    if isinstance(objective, Benign):
        output, features = with_features(model, objective.features)(x_adv.clone())
    else:
        output = logits_of(model(x_adv.clone()))
    logits = widened(output)
    own = not isinstance(objective, Mean | Holistic | Benign)
    losses: Tensor | None = None
    if isinstance(loss, Trades | Mart):
        assert clean is not None
        losses = loss(logits, batch.y, clean)
    elif own or loss != CrossEntropy():  # HR and BAT make plain cross-entropies themselves, with their gradient
        losses = loss(logits, batch.y)
    if losses is not None and losses.shape != (len(batch.x),):
        raise ValueError(
            f"loss(output, y) must return a loss for each sample [{len(batch.x)}], got {list(losses.shape)}: "
            "a mean or a sum has to be left out, as reduction='none' does"
        )
    if isinstance(objective, Mean | Holistic | Benign):
        return objective(BatchOutput(logits, features, batch.y, losses, batch.group)), logits
    assert losses is not None
    value = objective(losses)
    if value.dim() > 0:
        raise ValueError(f"objective(losses) must return one number, 0-d, got {list(value.shape)}")
    return value, logits


def misaligned(model: Model, batch: Batch, eps: float, bounds: Bounds) -> Tensor:
    """GradAlign's term, past wrappers."""
    if is_sharded(model):
        raise ValueError("grad_align needs a second derivative, which FSDP2 does not have: it must be 0")
    lower, upper = bounds or (None, None)
    with unwrapped(model) as bare:
        return gradient_misalignment(
            bare, batch.x, batch.y, eps, seed=batch.seed, sample_ids=batch.ids, lower=lower, upper=upper
        )
