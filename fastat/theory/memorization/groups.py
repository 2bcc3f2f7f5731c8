"""Typical and atypical samples, and how a network does on either while it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastat.data import Dataset
from fastat.evaluation import Evaluation, evaluate_images
from fastat.support.threat import ThreatModel
from fastat.theory.memorization.scores import THRESHOLD, Memorization
from fastat.training import TrainConfig

ATTACK = "pgd-10"


def split_test(test: Dataset, memorization: Memorization, threshold: float = THRESHOLD) -> dict[str, Dataset]:
    """The test samples in two groups, "typical" and "atypical" (:meth:`Memorization.atypical_test`).

    Args:
        test: the test samples that memorization was estimated for.
        memorization: the estimate.
        threshold: of memorization and influence.

    Raises:
        ValueError: test holds other samples.
    """
    if test.ids.tolist() != memorization.test_ids.tolist():
        raise ValueError("these are not the test samples that memorization was estimated for: their ids differ")
    return in_two(test, torch.from_numpy(memorization.atypical_test(threshold)))


def in_two(dataset: Dataset, atypical: Tensor) -> dict[str, Dataset]:
    """The samples in two groups, "typical" and "atypical", as ``atypical``, bool [N] on the CPU, says."""
    device = dataset.labels.device
    positions = {"typical": (~atypical).nonzero().flatten(), "atypical": atypical.nonzero().flatten()}
    return {name: dataset.take(some.to(device)) for name, some in positions.items()}


def evaluate_samples(model: nn.Module, samples: Dataset, threat: ThreatModel, seed: int) -> Evaluation:
    """Clean and under PGD-10, on samples that lie where the model does."""
    return evaluate_images(model, samples, threat, attacks=[ATTACK], seed=seed)


def group_measure(groups: Mapping[str, Dataset], config: TrainConfig) -> Callable[[nn.Module], dict[str, float]]:
    """What :func:`fastat.training.train_configured` takes as ``measure``: clean and PGD-10 accuracy of each group.

    The function takes a network and leaves it as found. It returns accuracies in [0, 1] by name: "typical clean",
    "typical pgd-10" and so on; a group without samples has none.

    Args:
        groups: samples by name.
        config: the training run; the attack has its norm, eps, bounds and seed.
    """

    def measure(model: nn.Module) -> dict[str, float]:
        device = next(model.parameters()).device
        found: dict[str, float] = {}
        for name, group in groups.items():
            if len(group) > 0:
                accuracies = evaluate_samples(
                    model, group.to(device), config.threat.threat_model, config.run.seed
                ).accuracy
                found |= {f"{name} {kind}": accuracy for kind, accuracy in accuracies.items()}
        return found

    return measure
