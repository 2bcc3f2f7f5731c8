"""Memorization on digits, and what adversarial training makes of typical and atypical test samples: one command."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fastat import data
from fastat.checkpoint import write_json
from fastat.config import check_config, default_config
from fastat.data import Dataset, Split
from fastat.differences import differences
from fastat.evaluation import wilson_interval
from fastat.network import Network
from fastat.report import format_eps
from fastat.theory.memorization.ensemble import Recipe
from fastat.theory.memorization.estimation import estimate, seconds_spent
from fastat.theory.memorization.figures import plot_examples, plot_group_curves, plot_scores
from fastat.theory.memorization.groups import ATTACK, group_measure, split_test
from fastat.theory.memorization.network import small_mlp
from fastat.theory.memorization.scores import THRESHOLD, Memorization
from fastat.training import train


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command, by default with the process's arguments.

    Raises:
        SystemExit: the command line is wrong, or the command failed for a reason that the message explains.
    """
    options = _parser().parse_args(arguments)
    try:
        results = run(options.out, options.models, options.fraction, options.seed, options.epochs)
    except (FileNotFoundError, FloatingPointError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from where it was", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"\n{results_table(results)}\n\nall of it is in {options.out}")


def run(out: Path, n_models: int, fraction: float, seed: int, epochs: int) -> dict[str, Any]:
    """Estimates, trains, draws, and writes results.json; returns its content. Run again, it continues.

    The folder then holds memorization.npz, figures/*.png, results.json, and what was kept to be continued: the
    networks' outcomes and the adversarial training run.

    Args:
        out: the folder; made if missing.
        n_models: networks on random subsets.
        fraction: of the training samples in each subset.
        seed: seed of the subsets, the networks and the adversarial training.
        epochs: of the adversarial training.

    Raises:
        ValueError: an argument is out of its range, or the folder holds the results of others; the message names them.
    """
    command = {"models": n_models, "fraction": fraction, "seed": seed, "epochs": epochs}
    config = default_config("digits", epochs=epochs, seed=seed, val_size=0, attack_mode="eval")
    check_config(config)
    _check_same_command(out / "command.json", command)
    split = data.load("digits")
    print(f"training {n_models} networks on random {fraction:.0%} subsets of {len(split.train)} digits", flush=True)
    memorization = estimate(split, small_mlp, n_models, fraction, folder=out / "networks", seed=seed)
    memorization.save(out / "memorization.npz")

    write_json(out / "command.json", command)  # the groups measured during training depend on all of it

    groups = split_test(split.test.load(), memorization)
    print(f"adversarial training, eps {format_eps(config.eps)}, {epochs} epochs", flush=True)
    network = train(config, out / "adversarial", measure=group_measure(groups, config))

    print("drawing", flush=True)
    _draw(out / "figures", split, memorization, network, groups, fraction)
    results = {
        **command,
        **_describe_estimate(split, memorization),
        "adversarial_training": _describe_training(network, groups),
        "seconds": {
            "subset_networks": seconds_spent(out / "networks"),
            "adversarial_training": sum(row["seconds"] for row in network.history),
        },
        "device": str(next(network.model.parameters()).device),
        "cpu_threads": torch.get_num_threads(),
    }
    write_json(out / "results.json", results)
    return results


def results_table(results: Mapping[str, Any]) -> str:
    """The content of results.json as lines of plain text."""
    lines = [
        f"{results['models']} networks: {results['accuracy']['subset']:.1%} on their own subset, "
        f"{results['accuracy']['held_out']:.1%} on the other training samples, "
        f"{results['accuracy']['test']:.1%} on test samples",
    ]
    for name, part in (("training", results["train"]), ("test", results["test"])):
        lines.append(
            f"atypical {name} samples: {part['atypical']} of {part['samples']} "
            f"({part['atypical_by_chance']:.1f} if subsets had no effect)"
        )
    lines += ["", f"{'after adversarial training':<28}{'accuracy':>9}   95% interval"]
    for group, found in results["adversarial_training"]["groups"].items():
        for kind, row in found["accuracy"].items():
            name = f"{group} ({found['samples']}), {kind}"
            lines.append(f"{name:<28}{row['accuracy']:>9.1%}   {row['low']:.1%} to {row['high']:.1%}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastat.theory.memorization", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results; the same command continues")
    parser.add_argument("--models", type=int, default=200, help="networks on random subsets (default: 200)")
    parser.add_argument("--fraction", type=float, default=0.7, help="of the training samples in each (default: 0.7)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random (default: 0)")
    epochs = default_config("digits").epochs
    parser.add_argument("--epochs", type=int, default=epochs, help=f"of adversarial training (default: {epochs})")
    return parser


def _check_same_command(file: Path, command: Mapping[str, Any]) -> None:
    """Raises ValueError if the file holds another command; the message names what differs."""
    if file.exists() and (differing := differences(json.loads(file.read_text()), command)):
        raise ValueError(
            f"{file.parent} holds the results of another command ({'; '.join(differing)}): choose another folder"
        )


def _draw(
    folder: Path,
    split: Split,
    memorization: Memorization,
    network: Network,
    groups: Mapping[str, Dataset],
    fraction: float,
) -> None:
    folder.mkdir(exist_ok=True)
    by = f"{memorization.n_models} networks on random {fraction:.0%} subsets"
    plot_scores(folder / "memorization_scores.png", memorization, f"digits, {by}")
    plot_examples(folder / "memorized_images.png", split.train.load(), memorization, f"digits, memorization by {by}")
    config = network.config
    plot_group_curves(
        folder / "typical_atypical_curves.png",
        network.history,
        {name: len(group) for name, group in groups.items()},
        rf"digits, PGD-{config.attack_steps} adversarial training, $\ell_\infty$ $\epsilon$ = {format_eps(config.eps)}",
    )


def _describe_estimate(split: Split, memorization: Memorization) -> dict[str, Any]:
    chance_train, chance_test = memorization.by_chance()
    train_errors = memorization.memorization_error[memorization.atypical_train()]
    return {
        "dataset": split.train.title,
        "network": "small_mlp",
        "recipe": dataclasses.asdict(Recipe()),
        "threshold": THRESHOLD,
        "accuracy": {
            "subset": float(memorization.subset_accuracy.mean()),
            "held_out": float(memorization.held_out_accuracy.mean()),
            "test": float(memorization.test_accuracy.mean()),
        },
        "train": {
            "samples": len(split.train),
            "atypical": int(memorization.atypical_train().sum()),
            "atypical_by_chance": chance_train,
            "largest_standard_error": float(train_errors.max()) if len(train_errors) else None,
        },
        "test": {
            "samples": len(split.test),
            "atypical": int(memorization.atypical_test().sum()),
            "atypical_by_chance": chance_test,
        },
    }


def _describe_training(network: Network, groups: Mapping[str, Dataset]) -> dict[str, Any]:
    """The last epoch's accuracies of each group, with their 95% intervals."""
    last = network.history[-1]["measured"]
    found = {}
    for name, group in groups.items():
        rows = {}
        for kind in ("clean", ATTACK):
            if len(group) > 0:
                accuracy = last[f"{name} {kind}"]
                low, high = wilson_interval(accuracy, len(group))
                rows[kind] = {"accuracy": accuracy, "low": low, "high": high}
        found[name] = {"samples": len(group), "accuracy": rows}
    config = network.config
    return {"model": config.model, "norm": config.norm, "eps": config.eps, "groups": found}
