"""What a trained network looks like: three figures, and the table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastat.attacks import pgd
from fastat.checkpoint import write_json
from fastat.data import Dataset
from fastat.evaluation import Evaluation, eval_mode, predict, robust_accuracy_curve
from fastat.figures import Examples, plot_curves, plot_examples, plot_robustness
from fastat.protocols import describe
from fastat.run import Network

_NETWORKS = {
    "small_cnn": "small CNN",
    "preact_resnet18": "PreAct ResNet-18",
    "wide_resnet_28_10": "WRN-28-10",
    "wide_resnet_34_10": "WRN-34-10",
}
_NORMS = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}

_CURVE_POINTS = 9
_CURVE_IMAGES = 200
_COLUMNS = 8


def format_eps(eps: float) -> str:
    """A radius as the field writes it: 8/255 where it is a small number of grey levels, else a decimal."""
    levels = eps * 255
    if 0 < levels < 25 and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def write_figures(network: Network, test: Dataset, folder: Path) -> list[Path]:
    """Draws training_curves.png, adversarial_examples.png and accuracy_vs_eps.png, and returns their paths.

    Args:
        network: the trained network.
        test: the images to show and to measure on, on the network's device; of them 200 at most for the curve.
        folder: where the figures go; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = network.config
    title = f"{network.title}, {_NETWORKS.get(config.model, config.model)}"
    threat = rf"{_NORMS[config.norm]} $\epsilon$ = {format_eps(config.eps)}"
    paths = [folder / f"{name}.png" for name in ("training_curves", "adversarial_examples", "accuracy_vs_eps")]
    trained = f"{title}, {threat}\n{describe(config)}"

    plot_curves(paths[0], network.history, trained)
    plot_examples(paths[1], find_examples(network, test), f"{title}, {describe(config)}\nattacked by PGD-20, {threat}")
    some = test.subset(_CURVE_IMAGES, config.seed)
    reach = 2 * config.eps if config.eps > 0 else 0.1
    radii = [reach * point / (_CURVE_POINTS - 1) for point in range(_CURVE_POINTS)]
    accuracy = robust_accuracy_curve(
        network.model, some.pixels(), some.labels, radii, config.norm, seed=config.seed, sample_ids=some.ids
    )
    unit, named = (255, "in 1/255 of the pixel range") if "/" in format_eps(config.eps) else (1, "pixels from 0 to 1")
    label = rf"radius $\epsilon$ of the {_NORMS[config.norm]} ball ({named})"
    shown = [unit * eps for eps in radii]
    plot_robustness(paths[2], shown, accuracy, len(some), unit * config.eps, label, trained)
    return paths


def find_examples(network: Network, test: Dataset) -> Examples:
    """Up to 8 test images under PGD-20, half of them fooling the network where there are so many.

    Only images that the network gets right without an attack are shown, as different in class as possible.
    """
    config = network.config
    some = test.subset(_CURVE_IMAGES, config.seed)
    x = some.pixels()
    with eval_mode(network.model):
        before = predict(network.model, x)
        x_adv = pgd(
            network.model, x, some.labels, config.eps, steps=20, norm=config.norm, seed=config.seed, sample_ids=some.ids
        )
        after = predict(network.model, x_adv)
    right, fooled = before == some.labels, after != some.labels
    broken = _varied(some.labels, right & fooled)
    robust = _varied(some.labels, right & ~fooled)
    broken = broken[: max(_COLUMNS // 2, _COLUMNS - len(robust))]
    robust_shown = robust[: _COLUMNS - len(broken)]
    chosen = torch.cat([robust_shown, broken])
    return Examples(
        images=x[chosen].cpu(),
        adversarial=x_adv[chosen].cpu(),
        true=[network.classes[label] for label in some.labels[chosen].tolist()],
        predicted=[network.classes[label] for label in after[chosen].tolist()],
        shown=f"of {len(some)} test images {len(robust)} stay right under attack; "
        f"here: {len(robust_shown)} of them, then {len(broken)} that do not",
    )


def results_json(network: Network, result: Evaluation, path: Path) -> dict[str, Any]:
    """Writes the accuracies with their 95% intervals, and what they are accuracies of; returns what it wrote."""
    rows = {}
    for name, accuracy in result.accuracy.items():
        low, high = result.interval(name)
        rows[name] = {"accuracy": accuracy, "low": low, "high": high}
    value = {
        "dataset": network.title,
        "model": network.config.model,
        "training": describe(network.config),
        "norm": result.norm,
        "eps": result.eps,
        "test_images": result.n,
        "epochs": len(network.history),
        "accuracy": rows,
    }
    write_json(path, value)
    return value


def results_table(results: Mapping[str, Any]) -> str:
    """The content of results.json as lines of plain text."""
    network = _NETWORKS.get(results["model"], results["model"])
    head = f"{results['dataset']}, {network}, {results['norm']} eps {format_eps(results['eps'])}"
    training = results.get("training", "adversarial training")  # absent from runs of before there was a choice
    lines = [head, f"{results['test_images']} test images, {results['epochs']} epochs of {training}", ""]
    lines.append(f"{'attack':<12}{'accuracy':>9}   95% interval")
    for name, row in results["accuracy"].items():
        shown = "none (clean)" if name == "clean" else name.upper().replace("X", "x")
        lines.append(f"{shown:<12}{row['accuracy']:>9.1%}   {row['low']:.1%} to {row['high']:.1%}")
    return "\n".join(lines)


def _varied(labels: Tensor, among: Tensor) -> Tensor:
    """Positions of the images in ``among``, the first of each class before the second of any."""
    positions = among.nonzero().flatten()
    seen: dict[int, int] = {}
    rank = []
    for label in labels[positions].tolist():
        rank.append(seen.get(label, 0))
        seen[label] = rank[-1] + 1
    return positions[torch.argsort(torch.tensor(rank, dtype=torch.int64), stable=True).to(positions.device)]
