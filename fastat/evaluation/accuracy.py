"""Clean and robust accuracy of a classifier, and its loss under attack."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastat.attacks import fgsm, pgd, settle, warn
from fastat.graphs import Graph, check_graph
from fastat.kernels.arguments import widened
from fastat.models import class_logits, in_eval_mode
from fastat.support.keyed import derive_seed
from fastat.support.threat import Bounds, Norm

Attack = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]

ATTACKS = ("fgsm", "pgd-20", "pgd-50x10")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Accuracies of one model on one set of images.

    Attributes:
        norm: norm of the perturbations.
        eps: their radius, in the unit of the pixels.
        correct: bool [n] on the CPU, by name: "clean", then the attacks; which images are classified correctly.
    """

    norm: Norm
    eps: float
    correct: dict[str, Tensor]

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.correct["clean"])

    @property
    def accuracy(self) -> dict[str, float]:
        """Fraction of the n images classified correctly, by name."""
        return {name: int(right.sum()) / self.n for name, right in self.correct.items()}

    def by_class(self, labels: Tensor, classes: int) -> dict[str, list[float | None]]:
        """The accuracies of the images of each class, given their labels, int64 [n]; None for a class without any."""
        members = [labels.cpu() == number for number in range(classes)]
        return {
            name: [float(right[own].float().mean()) if own.any() else None for own in members]
            for name, right in self.correct.items()
        }

    def interval(self, name: str) -> tuple[float, float]:
        """The 95% confidence interval of an accuracy, over the draw of the n images."""
        return wilson_interval(self.accuracy[name], self.n)


def evaluate(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: Norm = "linf",
    *,
    attacks: Sequence[str] = ATTACKS,
    batch_size: int = 250,
    bounds: Bounds = (0.0, 1.0),
    seed: int = 0,
    sample_ids: Tensor | None = None,
    graph: Graph = "auto",
) -> Evaluation:
    """Accuracy on clean images and under each attack, in eval mode; the model is left as found.

    An image the model gets wrong counts as not robust and is not attacked: it lies in its own ball. Each attack is
    scored on its own, not on what an earlier one left. PGD is scored over all its iterates (``early_stop``): an image
    is robust if none of them is misclassified. The attacks maximize the cross-entropy, at any confidence of the model
    (loss "ce" of :func:`fastat.pgd`), with step size eps for FGSM and 2.5 eps / steps for PGD (Madry et al. 2018).

    Args:
        model: takes pixels, returns logits [B, C]; a single logit, [B] or [B, 1], is that of class 1 against class 0.
        x: images [N, ...] within the bounds, on the model's device.
        y: labels, int64 [N].
        eps: radius, in the unit of x.
        norm: "linf", "l2" or "l1".
        attacks: names: "fgsm", "pgd-STEPS" or "pgd-STEPSxRESTARTS".
        batch_size: images at a time; the random starts do not depend on it.
        bounds: smallest and largest pixel; None for no box.
        seed: seed of the random starts.
        sample_ids: int64 [N], what each image's random start is keyed by; 0..N-1 by default.
        graph: whether the attacks are recorded, as for :func:`fastat.pgd`. The model keeps the recordings, and their
            memory, for the next evaluation; :func:`fastat.graphs.forget` frees them.

    Raises:
        ValueError: an unknown attack, no images, lengths that disagree, or a graph that is none of the three.
        CaptureError: with ``graph=True``, if an attack cannot be recorded.

    Warns:
        fastat.WeakAttackWarning: as :func:`fastat.pgd`; also where two passes of the model differ, and where several
            steps leave more images robust than a single one.
    """
    tried = {name: _attack(name, eps, norm, bounds, seed, graph) for name in attacks}
    ids = _checked_ids(x, y, batch_size, sample_ids, graph)
    correct = {name: torch.zeros(len(x), dtype=torch.bool, device=x.device) for name in ("clean", *tried)}
    with eval_mode(model):
        _check_repeatable(model, x[:batch_size])
        for part in torch.arange(len(x), device=x.device).split(batch_size):
            right = part[predict(model, x[part]) == y[part]]
            correct["clean"][right] = True
            for name, attack in tried.items():
                correct[name][right] = _survivors(model, attack, x, y, ids, right)
    settle(model)
    found = Evaluation(norm, eps, {name: right.cpu() for name, right in correct.items()})
    _check_order(found.accuracy)
    return found


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
    curve never rises, and the last radii are cheap. The other arguments are those of :func:`evaluate`.

    Raises:
        ValueError, CaptureError: as :func:`evaluate`.
    """
    ids = _checked_ids(x, y, batch_size, sample_ids, graph)
    hits = dict.fromkeys(sorted(eps_list), 0)
    with eval_mode(model):
        for part in torch.arange(len(x), device=x.device).split(batch_size):
            robust = part[predict(model, x[part]) == y[part]]
            for eps in hits:
                if eps > 0:
                    run = _attack(attack, eps, norm, bounds, seed, graph)
                    robust = robust[_survivors(model, run, x, y, ids, robust)]
                hits[eps] += len(robust)
    return [hits[eps] / len(x) for eps in eps_list]


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
    maximum over the ball that it has seen. The arguments are those of :func:`evaluate`.

    Returns:
        [N], float32 (float64 for float64 logits).

    Raises:
        ValueError, CaptureError: as :func:`evaluate`.
    """
    ids = _checked_ids(x, y, batch_size, sample_ids, graph)
    steps, restarts = _steps_and_restarts(attack)

    def once(x: Tensor, y: Tensor, ids: Tensor, restart: int) -> Tensor:
        if steps == 0:
            return fgsm(model, x, y, eps, norm=norm, bounds=bounds, graph=graph)
        return pgd(
            model, x, y, eps, steps=steps, norm=norm, bounds=bounds, keep="best", seed=derive_seed(seed, restart),
            sample_ids=ids, graph=graph,
        )  # fmt: skip

    losses = []
    with eval_mode(model):
        for part in torch.arange(len(x), device=x.device).split(batch_size):
            found = []
            for restart in range(restarts):
                x_adv = once(x[part], y[part], ids[part], restart)
                with torch.no_grad():
                    found.append(F.cross_entropy(widened(class_logits(model(x_adv))), y[part], reduction="none"))
            losses.append(torch.stack(found).amax(0))
    return torch.cat(losses)


def wilson_interval(accuracy: float, n: int) -> tuple[float, float]:
    """Wilson's (1927) 95% score interval of a proportion seen in n trials.

    The number of successes is rounded to the nearest whole one.

    Raises:
        ValueError: n < 1, or an accuracy outside [0, 1].
    """
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError(f"needs n >= 1 and an accuracy in [0, 1], got {n} and {accuracy}")
    from scipy.stats import binomtest  # slow to import

    found = binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts every module in eval mode, and back in the mode it had.

    Meanwhile cuDNN does not measure its algorithms: batches that samples leave have a new size each time.
    """
    measures = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with in_eval_mode(model):
            yield
    finally:
        torch.backends.cudnn.benchmark = measures


@torch.no_grad()
def _check_repeatable(model: nn.Module, x: Tensor) -> None:
    """Warns of a model whose passes differ by more than rounding."""
    first, second = (class_logits(model(x.clone())).float() for _ in range(2))
    rounding = torch.finfo(torch.float32 if x.dtype == torch.float64 else x.dtype).eps ** 0.5
    if torch.is_autocast_enabled(x.device.type):
        rounding = torch.finfo(torch.get_autocast_dtype(x.device.type)).eps ** 0.5
    apart, size = (t.nan_to_num(0.0, 0.0, 0.0).abs().amax() for t in (first - second, first))
    if bool(apart > rounding * size):
        warn(
            "the model is random",
            f"two passes over the same images differ by up to {float(apart):.3g} in their logits, so that an attack "
            "follows the gradient of one draw and is scored on another: robust accuracies are too high. Make the draw "
            "fixed, or attack the mean of many: lambda x: torch.stack([model(x) for _ in range(20)]).mean(0)",
        )


def _check_order(accuracy: dict[str, float]) -> None:
    """Warns where several steps leave more than a single one does."""
    attacks = {name: share for name, share in accuracy.items() if name != "clean"}
    single = {name: share for name, share in attacks.items() if _steps_and_restarts(name)[0] < 2}
    for name in attacks.keys() - single.keys():
        for one, share in single.items():
            if attacks[name] > share:
                warn(
                    "several steps find less than a single one",
                    f"{attacks[name]:.2%} are robust under {name}, {share:.2%} under {one}. The gradient misleads the "
                    "steps: take the lower number, and attack in other ways too (other losses, larger steps, more "
                    "restarts, from other models)",
                )


@torch.no_grad()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """The predicted classes, int64 [B], of x [B, ...]."""
    return class_logits(model(x)).argmax(1)


def _attack(name: str, eps: float, norm: Norm, bounds: Bounds, seed: int, graph: Graph) -> Attack:
    """The attack of that name as a function of (model, x, y, sample ids)."""
    steps, restarts = _steps_and_restarts(name)
    if steps == 0:
        return lambda model, x, y, ids: fgsm(model, x, y, eps, norm=norm, bounds=bounds, graph=graph)

    def attack(model: nn.Module, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        return pgd(
            model, x, y, eps, steps=steps, norm=norm, restarts=restarts, bounds=bounds, early_stop=True, seed=seed,
            sample_ids=ids, graph=graph,
        )  # fmt: skip

    return attack


def _steps_and_restarts(name: str) -> tuple[int, int]:
    """Of the PGD attack of that name; (0, 1) for "fgsm"."""
    if name == "fgsm":
        return 0, 1
    match = re.fullmatch(r"pgd-([1-9]\d*)(?:x([1-9]\d*))?", name)
    if match is None:
        raise ValueError(f"unknown attack {name!r}; known are fgsm, pgd-STEPS and pgd-STEPSxRESTARTS")
    return int(match[1]), int(match[2] or 1)


def _survivors(model: nn.Module, attack: Attack, x: Tensor, y: Tensor, ids: Tensor, chosen: Tensor) -> Tensor:
    """Which of the chosen images are still classified correctly after the attack: bool, as long as chosen."""
    if len(chosen) == 0:
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    x_adv = attack(model, x[chosen], y[chosen], ids[chosen])
    return predict(model, x_adv) == y[chosen]


def _checked_ids(x: Tensor, y: Tensor, batch_size: int, sample_ids: Tensor | None, graph: Graph) -> Tensor:
    """The sample ids; ValueError for arguments that do not fit."""
    check_graph(graph)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if len(x) == 0 or y.shape != (len(x),):
        raise ValueError(f"needs at least one image and one label each, got {len(x)} and labels {tuple(y.shape)}")
    if sample_ids is not None and sample_ids.shape != y.shape:
        raise ValueError(f"sample_ids must have the shape of y, {tuple(y.shape)}, got {tuple(sample_ids.shape)}")
    return torch.arange(len(x), device=x.device) if sample_ids is None else sample_ids.to(x.device)
