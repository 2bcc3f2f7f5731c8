"""What a trained network is worth: its accuracies, three figures, and the table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from fastat import models
from fastat.attacks import pgd
from fastat.data import Dataset
from fastat.evaluation import eval_mode, evaluate_images, predict, robust_accuracy_curve
from fastat.graphs import Graph
from fastat.report.run_figures import (
    Examples,
    can_be_drawn,
    is_whole_png,
    literal,
    plot_curves,
    plot_examples,
    plot_robustness,
)
from fastat.support.files import write_json
from fastat.support.files.foreign_json import content_of, read_object
from fastat.support.threat import Bounds
from fastat.training import METRICS, Network, Which

NORM_TITLES = {"linf": r"$\ell_\infty$", "l2": r"$\ell_2$", "l1": r"$\ell_1$"}

_TABLE = {
    "dataset": str,
    "model": str,
    "training": str,
    "norm": {*NORM_TITLES},
    "eps": float,
    "test_images": int,
    "epochs": int,
    "epoch": int,
    "which": {*get_args(Which)},
    "accuracy": {...: {"accuracy": float, "low": float, "high": float}},
    "figures": [str],
}
"""What the table at the end of a run shows of results.json."""
_CURVE_POINTS = 9
_CURVE_IMAGES = 200
_COLUMNS = 8


def format_eps(eps: float) -> str:
    """A radius as the field writes it: 8/255 where it is a small number of grey levels, else a decimal."""
    levels = eps * 255
    if 0 < levels < 25 and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255"
    return f"{eps:.4g}"


def write_results(network: Network, test: Dataset, folder: Path, *, graph: Graph = "auto") -> dict[str, Any]:
    """Measures a network, draws its figures, and writes results.json, last: a run folder that has it is complete.

    Args:
        network: the trained network.
        test: the images to measure on and to show, on the network's device; of them 200 at most for the curve.
        folder: where results.json and the folder "figures" go; made if missing.
        graph: whether the attacks are recorded, as for :func:`fastat.evaluation.evaluate`.

    Returns:
        The content of results.json: the accuracies with their 95% intervals, by class, against eps, and what they are
        accuracies of.
    """
    record, history = network.record, network.history
    seed = record.run.seed
    found = evaluate_images(network.model, test, record.threat, seed=seed, graph=graph)
    curve = _curve(network, test.subset(_CURVE_IMAGES, seed), graph)
    rows = {}
    for name, accuracy in found.accuracy.items():
        low, high = found.interval(name)
        rows[name] = {"accuracy": accuracy, "low": low, "high": high}
    seconds = sum(row["seconds"] for row in history)
    classes = len(network.classes)
    results = {
        "dataset": network.title,
        "model": record.fields["model"],
        "protocol": record.fields["protocol"],
        "training": _training(network),
        "seed": seed,
        "norm": found.norm,
        "eps": found.eps,
        "test_images": found.n,
        "epochs": len(history),
        "epoch": network.epoch,
        "which": network.which,
        "accuracy": rows,
        "curve": curve,
        "classes": list(network.classes),
        "by_class": {
            "images": torch.bincount(test.labels.cpu(), minlength=classes).tolist(),
            "accuracy": found.by_class(test.labels, classes),
        },
        "seconds": seconds,
        "seconds_per_epoch": seconds / max(1, len(history)),
        "figures": _write_figures(network, test, curve, folder),
    }
    write_json(folder / "results.json", results)
    return results


def whole_results(folder: Path) -> dict[str, Any] | None:
    """The content of results.json, as :func:`write_results` returns it; None where the file, a figure that it names, or
    the epochs that it is of are not all there. The run's own files may be links: nothing of them is shown elsewhere."""
    try:
        results = read_object(content_of(folder / "results.json"), _TABLE, "results.json")
        epochs = len(content_of(folder / METRICS).splitlines())
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in results["figures"]):
            return None
        figures = [content_of(folder / name) for name in results["figures"]]
    except (OSError, ValueError):
        return None
    return results if epochs == results["epochs"] and all(map(is_whole_png, figures)) else None


def results_table(results: Mapping[str, Any]) -> str:
    """The content of results.json as lines of plain text."""
    network = models.title(results["model"])
    head = f"{results['dataset']}, {network}, {results['norm']} eps {format_eps(results['eps'])}"
    trained = f"{results['epochs']} epochs of {results['training']}" if results["epochs"] else results["training"]
    chosen = f", the best of them epoch {results['epoch']}" if results["which"] == "best" else ""
    lines = [head, f"{results['test_images']} test images, {trained}{chosen}", ""]
    lines.append(f"{'attack':<12}{'accuracy':>9}   95% interval")
    for name, row in results["accuracy"].items():
        lines.append(f"{attack_title(name):<12}{row['accuracy']:>9.1%}   {row['low']:.1%} to {row['high']:.1%}")
    return "\n".join(lines)


def attack_title(name: str) -> str:
    """What tables call an attack: "PGD-50x10", or "none (clean)"."""
    return "none (clean)" if name == "clean" else name.upper().replace("X", "x")


def _curve(network: Network, some: Dataset, graph: Graph) -> dict[str, Any]:
    """Accuracy under PGD-20 from radius 0 to twice that of the training."""
    threat, seed = network.record.threat, network.record.run.seed
    reach = 2 * threat.eps if threat.eps > 0 else 0.1
    radii = [reach * point / (_CURVE_POINTS - 1) for point in range(_CURVE_POINTS)]
    accuracy = robust_accuracy_curve(
        network.model, some.pixels(), some.labels, radii, threat.norm, bounds=threat.bounds, seed=seed,
        sample_ids=some.ids, graph=graph,
    )  # fmt: skip
    return {"attack": "pgd-20", "images": len(some), "eps": radii, "accuracy": accuracy}


def _write_figures(network: Network, test: Dataset, curve: Mapping[str, Any], folder: Path) -> list[str]:
    """Draws the figures into the folder "figures" and returns their names relative to the folder."""
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    allowed = network.record.threat
    title = literal(f"{network.title}, {models.title(network.record.fields['model'])}")
    threat = rf"{NORM_TITLES[allowed.norm]} $\epsilon$ = {format_eps(allowed.eps)}"
    curves, examples, robustness = (
        f"figures/{name}.png" for name in ("training_curves", "adversarial_examples", "accuracy_vs_eps")
    )
    names, trained = [robustness], f"{title}, {threat}\n{_training(network)}"
    if can_be_drawn(test.image_shape):
        attacked = f"{title}, {_training(network)}\nattacked by PGD-20, {threat}"
        plot_examples(folder / examples, find_examples(network, test), attacked, shown_range(allowed.bounds))
        names.insert(0, examples)
    if network.history:
        best = network.epoch if network.which == "best" else None
        plot_curves(folder / curves, network.history, trained, best)
        names.insert(0, curves)
    unit, label = eps_axis(allowed.norm, allowed.eps, allowed.bounds)
    shown = [unit * eps for eps in curve["eps"]]
    plot_robustness(folder / robustness, shown, curve["accuracy"], curve["images"], unit * allowed.eps, label, trained)
    return names


def _training(network: Network) -> str:
    """How the network came about, in the words of a title."""
    return network.record.training if network.history else "weights of other code"


def eps_axis(norm: str, eps: float, bounds: Bounds = (0.0, 1.0)) -> tuple[int, str]:
    """What to multiply radii by so that they read well, and the label of their axis."""
    unit, named = (255, "in 1/255 of the pixel range") if "/" in format_eps(eps) else (1, "pixels from 0 to 1")
    if bounds is None or tuple(bounds) != (0, 1):
        unit, named = 1, "in the unit of the inputs"
    return unit, rf"radius $\epsilon$ of the {NORM_TITLES[norm]} ball ({named})"


def shown_range(bounds: Bounds) -> tuple[float, float]:
    """The values that are shown as black and as white: the box, or without one those of pixels."""
    lower, upper = bounds or (None, None)
    return (0.0, 1.0) if lower is None or upper is None else (lower, upper)


def find_examples(network: Network, test: Dataset) -> Examples:
    """Up to 8 test images under PGD-20, half of them fooling the network where there are so many.

    Only images that the network gets right without an attack are shown, as different in class as possible.
    """
    threat, seed = network.record.threat, network.record.run.seed
    some = test.subset(_CURVE_IMAGES, seed)
    x = some.pixels()
    with eval_mode(network.model):
        before = predict(network.model, x)
        x_adv = pgd(
            network.model, x, some.labels, threat.eps, steps=20, norm=threat.norm, bounds=threat.bounds, seed=seed,
            sample_ids=some.ids,
        )  # fmt: skip
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


def _varied(labels: Tensor, among: Tensor) -> Tensor:
    """Positions of the images in ``among``, the first of each class before the second of any."""
    positions = among.nonzero().flatten()
    seen: dict[int, int] = {}
    rank = []
    for label in labels[positions].tolist():
        rank.append(seen.get(label, 0))
        seen[label] = rank[-1] + 1
    return positions[torch.argsort(torch.tensor(rank, dtype=torch.int64), stable=True).to(positions.device)]
