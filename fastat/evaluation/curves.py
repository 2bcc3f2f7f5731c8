"""Robust accuracy over the radius, and losses under attack."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastat.attacks import fgsm, pgd
from fastat.evaluation.batches import ids_of
from fastat.evaluation.running import eval_mode, predict
from fastat.evaluation.trials import Threat, check_seed, named_attack, steps_and_restarts
from fastat.graphs import Graph, check_graph
from fastat.kernels.arguments import (
    check_data,
    check_integer,
    check_number,
    class_labels,
    integer_labels,
    widened,
)
from fastat.models import Model, class_logits
from fastat.support.keyed import derive_seed
from fastat.support.threat import Bounds, Norm


def robust_accuracy_curve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps_list: Sequence[float],
    norm: Norm = "linf",
    *,
    attack: str = "pgd-20",
    batch_size: int = 250,
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
    sample_ids: Tensor | None = None,
    graph: Graph = "auto",
) -> list[float]:
    """Robust accuracy for each radius in eps_list, in its order; for eps = 0 the clean accuracy.

    The balls are nested: an image broken at one radius is broken at every larger one and is not attacked again. So the
    curve never rises, and the last radii are cheap. x is a tensor [N, ...] where the model is, y int64 [N]; the other
    arguments are those of :func:`evaluate`.

    Raises:
        TypeError, ValueError, CaptureError: as :func:`evaluate`.
    """
    ids = _checked_ids(x, y, batch_size, seed, sample_ids, graph)
    radii = [check_number(eps, "eps") for eps in eps_list]
    hits = dict.fromkeys(sorted(radii), 0)
    with eval_mode(model):
        for part in torch.arange(len(x), device=x.device).split(int(batch_size)):
            robust = part[predict(model, x[part]) == y[part]]
            for eps in hits:
                if eps > 0:
                    run = named_attack(attack, Threat(eps, norm, bounds, seed, None, graph))
                    robust = robust[_survivors(model, run, x, y, ids, robust)]
                hits[eps] += len(robust)
    return [hits[eps] / len(x) for eps in radii]


def adversarial_losses(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: Norm = "linf",
    *,
    attack: str = "pgd-10",
    batch_size: int = 250,
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
    sample_ids: Tensor | None = None,
    graph: Graph = "auto",
) -> Tensor:
    """The cross-entropy of each image under attack, in eval mode; the model is left as found.

    PGD keeps the largest loss of all its iterates and restarts, the random starts included: the best lower bound of the
    maximum over the ball that it has seen. x is a tensor [N, ...] where the model is, y int64 [N]; the other arguments
    are those of :func:`evaluate`.

    Returns:
        [N], float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError, CaptureError: as :func:`evaluate`.
    """
    ids = _checked_ids(x, y, batch_size, seed, sample_ids, graph)
    eps = check_number(eps, "eps")
    steps, restarts = steps_and_restarts(attack)

    def once(x: Tensor, y: Tensor, ids: Tensor, restart: int) -> Tensor:
        if attack == "fgsm":
            return fgsm(model, x, y, eps, norm=norm, bounds=bounds, graph=graph)
        return pgd(
            model, x, y, eps, steps=steps, norm=norm, bounds=bounds, keep="best", seed=derive_seed(seed, restart),
            sample_ids=ids, graph=graph,
        )  # fmt: skip

    losses = []
    with eval_mode(model):
        for part in torch.arange(len(x), device=x.device).split(int(batch_size)):
            found = []
            for restart in range(restarts):
                x_adv = once(x[part], y[part], ids[part], restart)
                with torch.no_grad():
                    logits = widened(class_logits(model(x_adv)))
                    found.append(F.cross_entropy(logits, class_labels(y[part], logits, "y"), reduction="none"))
            losses.append(torch.stack(found).amax(0))
    return torch.cat(losses)


def _survivors(
    model: Model,
    attack: Callable[[Model, Tensor, Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    ids: Tensor,
    chosen: Tensor,
) -> Tensor:
    """Which of the chosen images are still classified correctly after the attack: bool, as long as chosen."""
    if len(chosen) == 0:
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    x_adv = attack(model, x[chosen], y[chosen], ids[chosen])
    return predict(model, x_adv) == y[chosen]


def _checked_ids(x: Tensor, y: Tensor, batch_size: int, seed: int, sample_ids: Tensor | None, graph: Graph) -> Tensor:
    """The sample ids; TypeError or ValueError for arguments that do not fit."""
    check_graph(graph)
    check_integer(batch_size, "batch_size", 1)
    check_seed(seed)
    check_data(x, "x")
    integer_labels(y, x, "y")
    if len(x) == 0:
        raise ValueError("needs at least one image and one label each, got none")
    return ids_of(sample_ids, x)
