"""What is measured of a network while it trains: numbers in its metrics.jsonl, under "measured"."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from torch import Tensor, nn

from experiments.study.cells import ACCURACY_ATTACK, ALPHAS, LOSS_ATTACK, ORDER, RS
from fastat import data
from fastat.data import Dataset
from fastat.evaluation import adversarial_losses, evaluate_images
from fastat.objectives import holistic_loss
from fastat.training import TrainConfig, training_sets

_TEST_CHOICE = 0  # one choice of test images for all seeds: differences between runs are not those of their tests


def in_sample(alpha: float, r: float) -> str:
    """The key of the HR loss of the training set at these budgets."""
    return f"in-sample {alpha:g} {r:g}"


def measurement(config: TrainConfig, data_root: str | None, test_size: int) -> Callable[[nn.Module], dict[str, float]]:
    """The function that measures the networks of one run.

    ``in-sample ALPHA R``: the HR loss of the whole training set at these budgets, with the labels as trained on; all
    of them from one vector of adversarial losses, and at 0 0 its mean. ``test loss``: the mean adversarial loss of the
    test images with their true labels, by the same attack. ``clean`` and ``robust``: test accuracies.
    """
    split = data.load(config.dataset.data, data_root)
    train, test = training_sets(config.dataset, config.run.seed, split)[0], split.test.subset(test_size, _TEST_CHOICE)

    def losses(model: nn.Module, some: Dataset) -> Tensor:
        return adversarial_losses(
            model,
            some.pixels(),
            some.labels,
            config.threat.eps,
            config.threat.norm,
            attack=LOSS_ATTACK,
            seed=config.run.seed,
            sample_ids=some.ids,
        ).double()

    def measure(model: nn.Module) -> dict[str, float]:
        vector = losses(model, train)
        found = {in_sample(alpha, r): float(holistic_loss(vector, alpha, r, ORDER)) for alpha, r in product(ALPHAS, RS)}
        found["test loss"] = float(losses(model, test).mean())
        accuracy = evaluate_images(
            model, test, config.threat.threat_model, attacks=(ACCURACY_ATTACK,), seed=config.run.seed
        ).accuracy
        return found | {"clean": accuracy["clean"], "robust": accuracy[ACCURACY_ATTACK]}

    return measure
