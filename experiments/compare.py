"""The protocols side by side: ``make compare``, or ``python -m experiments.compare [--quick] [--data NAME ...]``.

Every protocol trains the same network for equally many epochs (those of Free count its replays) with the settings that
:func:`fastat.training.default_config` gives it: nothing is tuned here. Evaluated are the network of the best epoch on
the validation images and that of the last epoch, on test images, by PGD-50 with 10 restarts. One thread each, so that
the times compare; runs that are finished are kept, interrupted ones go on.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from fastat import data
from fastat.evaluation import evaluate_images, wilson_interval
from fastat.kernels import describe_environment
from fastat.protocols import PROTOCOLS, ProtocolName
from fastat.report import format_eps
from fastat.support.files import write_bytes, write_json
from fastat.training import (
    TrainConfig,
    as_fields,
    check_same_run,
    default_config,
    describe_training,
    load_network,
    record_of,
    train_configured,
)

RESULTS = Path(__file__).parent / "results" / "compare"
_ATTACK = "pgd-50x10"
_SOME: tuple[ProtocolName, ...] = ("pgd-at", "n-fgsm", "trades", "hr")


@dataclass(frozen=True)
class Contest:
    """Protocols on one dataset at one radius.

    Attributes:
        data: the dataset's name.
        protocols: who takes part.
        changes: what is not the default of dataset and protocol.
        seeds: runs of each protocol.
        test_size: test images to evaluate on; all for None.
    """

    data: str
    protocols: tuple[ProtocolName, ...]
    changes: Mapping[str, Any]
    seeds: int
    test_size: int | None


CONTESTS = {
    "digits": Contest("digits", tuple(PROTOCOLS), {}, seeds=2, test_size=None),
    "digits-0.2": Contest("digits", tuple(PROTOCOLS), {"eps": 0.2}, seeds=1, test_size=None),
    "cifar10": Contest(
        "cifar10",
        _SOME,
        {"model": "small_cnn", "width": 16, "train_size": 4000, "val_size": 500, "epochs": 10, "lr": 0.1},
        seeds=1,
        test_size=500,
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains what is missing and writes compare.json and compare.md."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    root = options.out / ("quick" if options.quick else "full")
    results = options.results or (root if options.quick else RESULTS)
    found = {}
    for name in options.data:
        contest = _quick(CONTESTS[name]) if options.quick else CONTESTS[name]
        try:
            found[name] = _hold(name, contest, root / name)
        except FileNotFoundError as error:
            print(f"{name} left out: {error}")
    results.mkdir(parents=True, exist_ok=True)
    value = {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "environment": describe_environment(),
        "contests": found,
    }
    write_json(results / "compare.json", value)
    text = as_markdown(value)
    write_bytes(results / "compare.md", text.encode())
    print(f"\n{text}")


def as_markdown(results: Mapping[str, Any]) -> str:
    """compare.json as tables."""
    lines = [
        "# The protocols side by side",
        "",
        "Made by `make compare` (experiments/compare.py) from the numbers in compare.json, "
        f"{results['measured']}; {results['environment']['devices']}, one thread used; "
        f"torch {results['environment']['torch'].split()[0]}.",
        "Robust: under PGD-50 with 10 restarts. Best: the epoch with the best PGD-20 accuracy on validation images, "
        "last: the last epoch. Means over the seeds, with the standard deviation between them; the interval is "
        "that of the mean for the number of test images, 95%. Time per epoch: of the training steps alone, median.",
    ]
    if "remark" in results:
        lines += ["", results["remark"]]
    for contest in results["contests"].values():
        seeds = "one seed" if contest["seeds"] == 1 else f"{contest['seeds']} seeds"
        lines += [
            "",
            f"## {contest['dataset']}, {contest['model']}, {contest['norm']} eps {format_eps(contest['eps'])}",
            "",
            f"{contest['train_images']} training images, {contest['epochs']} epochs, {contest['test_images']} test "
            f"images, {seeds}.",
            "",
            "| training | clean, best | robust, best | 95% interval | clean, last | robust, last | time per epoch |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
        for row in contest["rows"]:
            low, high = row["interval"]
            shown = [_spread(row[which][kind]) for which in ("best", "last") for kind in ("clean", "robust")]
            shown.insert(2, f"{low:.1%} to {high:.1%}")
            lines.append(f"| {row['training']} | {' | '.join(shown)} | {row['seconds_per_epoch']:.2f} s |")
    return "\n".join(lines) + "\n"


def _hold(name: str, contest: Contest, folder: Path) -> dict[str, Any]:
    configs = [
        [default_config(contest.data, protocol, **contest.changes, seed=seed) for seed in range(contest.seeds)]
        for protocol in contest.protocols
    ]
    first = configs[0][0]
    split = data.load(first.dataset.data)
    test = split.test.subset(contest.test_size, 0).load()
    rows = []
    for same in configs:
        outcomes = [
            _outcome(config, contest, test, folder / f"{config.method.protocol}-seed{config.run.seed}")
            for config in same
        ]
        rows.append(_row(same[0], outcomes))
        print(f"{name}: {rows[-1]['training']}: robust {_spread(rows[-1]['best']['robust'])}", flush=True)
    return {
        "dataset": split.train.title,
        "model": first.network.model,
        "norm": first.threat.norm,
        "eps": first.threat.eps,
        "epochs": first.optimizer.epochs,
        "train_images": min(first.dataset.train_size or len(split.train), len(split.train) - first.dataset.val_size),
        "test_images": len(test),
        "seeds": contest.seeds,
        "settings": as_fields(first),
        "rows": rows,
    }


def _outcome(config: TrainConfig, contest: Contest, test: data.Dataset, folder: Path) -> dict[str, Any]:
    """Trains the run and evaluates its networks, each if that is not done."""
    check_same_run(folder, record_of(config))
    file = folder / f"judged-on-{contest.test_size or 'all'}.json"
    if file.exists():
        kept: dict[str, Any] = json.loads(file.read_text())
        return kept
    with contextlib.redirect_stdout(io.StringIO()):
        network = train_configured(config, folder, device="cpu")
    found: dict[str, Any] = {}
    for which in ("best", "last"):
        if which == "last" and network.epoch == len(network.history):
            found["last"] = found["best"]  # they are one network
            continue
        model, threat = load_network(folder, "cpu", which=which).model, config.threat.threat_model
        evaluated = evaluate_images(model, test, threat, attacks=(_ATTACK,))
        found[which] = {"clean": evaluated.accuracy["clean"], "robust": evaluated.accuracy[_ATTACK]}
    found["seconds"] = [row["seconds"] for row in network.history]
    found["test_images"] = len(test)
    write_json(file, found)
    return found


def _row(config: TrainConfig, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    robust = statistics.mean(outcome["best"]["robust"] for outcome in outcomes)
    return {
        "protocol": config.method.protocol,
        "training": describe_training(config),
        **{
            which: {kind: [outcome[which][kind] for outcome in outcomes] for kind in ("clean", "robust")}
            for which in ("best", "last")
        },
        "interval": wilson_interval(robust, outcomes[0]["test_images"]),
        "seconds_per_epoch": statistics.median(value for outcome in outcomes for value in outcome["seconds"]),
    }


def _quick(contest: Contest) -> Contest:
    """A trial of the machinery, not a measurement."""
    changes = {**contest.changes, "train_size": 128, "val_size": 32, "epochs": 2, "attack_steps": 2}
    return dataclasses.replace(contest, changes=changes, seeds=1, test_size=30)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.mean(values):.1%}"
    return mean if len(values) == 1 else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m experiments.compare", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=tuple(CONTESTS), default=list(CONTESTS), help="which contests")
    parser.add_argument("--quick", action="store_true", help="a trial of the machinery, into the folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("runs/compare"), help="folder of the runs")
    parser.add_argument("--results", type=Path, help="folder of compare.json and compare.md")
    return parser


if __name__ == "__main__":
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    main()
