"""Clean and robust accuracy of a classifier."""

from __future__ import annotations

import math
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from fastat.attacks import Normalization, tell_all
from fastat.evaluation.batches import Array, batches_of
from fastat.evaluation.doubts import attacked_model, check_order, check_single
from fastat.evaluation.result import Evaluation
from fastat.evaluation.running import eval_mode, predict, shown
from fastat.evaluation.trials import Attacks, Threat, check_seed, trials_of
from fastat.graphs import Graph, check_graph
from fastat.kernels.arguments import check_integer, check_number
from fastat.models import Model, class_logits, logits_of, modules_in_sight
from fastat.support.threat import Bounds, Norm, check_norm

ATTACKS = ("fgsm", "pgd-20", "pgd-50x10")


@overload
def evaluate(
    model: Model, data: Any, eps: float, norm: Norm = "linf", *, attacks: Attacks = ATTACKS, batch_size: int = 250,
    bounds: Bounds = (0.0, 1.0), normalization: Normalization | None = None, seed: int = 0,
    sample_ids: Tensor | None = None, device: torch.device | str | None = None, examples: bool = False,
    progress: bool = True, graph: Graph = "auto",
) -> Evaluation: ...  # fmt: skip


@overload
def evaluate(
    model: Model, x: Array, y: Array, eps: float, norm: Norm = "linf", /, *, attacks: Attacks = ATTACKS,
    batch_size: int = 250, bounds: Bounds = (0.0, 1.0), normalization: Normalization | None = None, seed: int = 0,
    sample_ids: Tensor | None = None, device: torch.device | str | None = None, examples: bool = False,
    progress: bool = True, graph: Graph = "auto",
) -> Evaluation: ...  # fmt: skip


def evaluate(
    model: Model,
    data: Any,
    *given: Any,
    eps: float | None = None,
    norm: Norm | None = None,
    attacks: Attacks = ATTACKS,
    batch_size: int = 250,
    bounds: Bounds = (0.0, 1.0),
    normalization: Normalization | None = None,
    seed: int = 0,
    sample_ids: Tensor | None = None,
    device: torch.device | str | None = None,
    examples: bool = False,
    progress: bool = True,
    graph: Graph = "auto",
) -> Evaluation:
    """Accuracy on clean images and under attack, in eval mode: ``evaluate(model, data, eps)``.

    An image the model gets wrong counts as not robust and is not attacked: it lies in its own ball. Each attack is
    scored on its own, not on what an earlier one left; the worst case counts an image that withstands all of them. PGD
    by name is scored over all its iterates (``early_stop``): an image is robust if none of them is misclassified. The
    attacks by name maximize the cross-entropy, at any confidence of the model (loss "ce" of :func:`fastat.pgd`), with
    step size eps for FGSM and 2.5 eps / steps for PGD (Madry et al. 2018). A model that ends in a softmax is attacked
    through the logarithm of its outputs.

    Args:
        model: any module or function from x to logits ``[B, C]``, or to what holds them as ``logits``; a single logit,
            ``[B]`` or ``[B, 1]``, is that of class 1 against class 0. Left as found.
        data: a DataLoader or another iterable of batches (x, y), a map-style Dataset of pairs (x, label), a dataset of
            this library, or a pair (x, y) of tensors or arrays, which may be given apart: ``evaluate(model, x, y,
            eps)``. x floating-point within the bounds, or uint8 pixels, which are divided by 255. Results are in the
            order of the data: a loader that shuffles keeps the order to itself.
        eps: radius, in the unit of the bounds.
        norm: "linf" (the default), "l2" or "l1".
        attacks: names, "fgsm", "pgd-STEPS" or "pgd-STEPSxRESTARTS", and functions ``(model, x, y) -> x_adv``, in a list
            or a dict by name. A function is also passed ``eps``, ``norm``, ``bounds``, ``seed``, ``sample_ids`` and
            ``normalization`` if it has parameters of these names that are open: settings of an attack are a partial,
            ``functools.partial(fastat.pgd, loss="margin", steps=100)``. It gets copies of x and y; its results are
            checked against ball and box; what it does to the model's mode, buffers and gradients is undone.
        batch_size: images at a time, where the data do not come in batches; random starts do not depend on it.
        bounds: smallest and largest value; None for no box.
        normalization: (mean, std) if x is normalized; eps and bounds stay in pixel units.
        seed: of the random starts.
        sample_ids: int64 [N], what each random start is keyed by, with a pair (x, y); by default the position.
        device: where the data go; None for the device of the model's parameters, else they stay where they are.
        examples: keep the adversarial examples too.
        progress: show a bar, if the standard error is a terminal.
        graph: whether the attacks by name are recorded, as for :func:`fastat.pgd`. The model keeps the recordings, and
            their memory, for the next evaluation; :func:`fastat.graphs.forget` frees them.

    Raises:
        TypeError, ValueError: data of another kind, no images, an unknown attack, results outside the threat model.
        CaptureError: with ``graph=True``, if an attack cannot be recorded.

    Warns:
        fastat.WeakAttackWarning: as :func:`fastat.pgd`; also where two passes of the model differ, and where several
            steps leave more images robust than a single one.
    """
    data, radius, norm = _arguments(data, given, eps, norm)
    check_graph(graph)
    check_integer(batch_size, "batch_size", 1)
    check_seed(seed)
    trials = trials_of(attacks, Threat(radius, norm, bounds, seed, normalization, graph))
    place = _device_of(model) if device is None else torch.device(device)
    pixels = normalization is None and bounds is not None and tuple(bounds) == (0, 1)
    batches, total = batches_of(data, int(batch_size), place, sample_ids, bytes_allowed=pixels)
    correct: dict[str, list[Tensor]] = {name: [] for name in ("clean", *(trial.name for trial in trials))}
    found: dict[str, list[Tensor]] = {trial.name: [] for trial in trials}
    attacked: Model | None = None
    single = [math.inf, -math.inf]  # the ends of outputs that are one number
    with eval_mode(model), shown(total, progress) as advance:
        for x, y, ids in batches:
            if attacked is None:
                attacked = attacked_model(model, x)
            logits = _logits(attacked, x, y, single)
            hits = logits.argmax(1) == y
            right = hits.nonzero()[:, 0]
            correct["clean"].append(hits)
            for trial in trials:
                x_adv, survived = x, hits.clone()
                if len(right) > 0:
                    made = trial.run(attacked, x[right], y[right], ids[right])
                    survived[right] = predict(attacked, made) == y[right]
                    x_adv = x.index_copy(0, right, made) if examples else x
                correct[trial.name].append(survived)
                if examples:
                    found[trial.name].append(x_adv.cpu())
            advance(len(x))
    if attacked is None:
        raise ValueError("needs at least one image and one label each, got none")
    tell_all()
    result = Evaluation(
        norm,
        radius,
        {name: torch.cat(parts).cpu() for name, parts in correct.items()},
        {name: torch.cat(parts) for name, parts in found.items() if parts},
    )
    check_single(single[0], single[1], result.n)
    check_order(result.correct, {trial.name: trial.steps for trial in trials})
    return result


@torch.no_grad()
def _logits(model: Model, x: Tensor, y: Tensor, single: list[float]) -> Tensor:
    """Those of a batch ``[B, C]``; ValueError for labels that are none of the classes."""
    output = logits_of(model(x.clone()))  # its first layer may work in place
    logits = class_logits(output)
    low, high = (int(end) for end in y.aminmax())
    if low < 0 or high >= logits.shape[1]:
        raise ValueError(f"labels must be in [0, {logits.shape[1]}), the classes of the model, got {low}..{high}")
    if logits is not output:
        single[:] = min(single[0], float(output.min())), max(single[1], float(output.max()))
    return logits


def _arguments(data: Any, given: tuple[Any, ...], eps: float | None, norm: Norm | None) -> tuple[Any, float, Norm]:
    """Data, radius and norm of either way to call :func:`evaluate`."""
    if given and (isinstance(given[0], list) or (isinstance(given[0], Tensor | np.ndarray) and given[0].ndim > 0)):
        data, given = (data, given[0]), given[1:]
    if len(given) > 2:
        raise TypeError(f"evaluate takes (model, data, eps, norm) or (model, x, y, eps, norm), got {len(given)} more")
    values = dict(zip(("eps", "norm"), given, strict=False))
    if (eps is not None and "eps" in values) or (norm is not None and "norm" in values):
        raise TypeError("evaluate got eps or norm twice, by place and by name")
    radius = values.get("eps", eps)
    if radius is None:
        raise TypeError("evaluate needs eps, the radius of the attacks in the unit of the inputs")
    radius = check_number(radius, "eps")
    named = values.get("norm", norm)
    chosen: Norm = "linf" if named is None else named
    check_norm(chosen)
    return data, radius, chosen


def _device_of(model: Model) -> torch.device | None:
    """Where the model's first parameter or buffer is."""
    first = next((t for m in modules_in_sight(model) for t in (*m.parameters(), *m.buffers())), None)
    return None if first is None else first.device
