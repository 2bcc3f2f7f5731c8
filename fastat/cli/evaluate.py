"""The command ``fastat evaluate``, and what ``fastat train`` ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastat import data
from fastat.cli.commands import Evaluate
from fastat.cli.usage import UsageError
from fastat.report import results_table, write_results
from fastat.training import CALLER, ConfigError, Network, load_network

_CPU_EVAL_SIZE = 500  # PGD-50x10 on all of a test set would take longer on a CPU than the training
_LARGE_EVAL_SIZE = 5000  # of ImageNet, as robustness benchmarks take; all would fill the memory


def run_evaluate(command: Evaluate) -> None:
    """Evaluates the network of a run folder or of a checkpoint file."""
    if command.run is None:
        raise UsageError("evaluate needs a run: fastat evaluate RUN, its folder or a checkpoint file of it")
    network = load_network(command.run, command.device, which=command.which)
    if network.epoch == 0:
        raise ValueError(f"{command.run} has no finished epoch yet")
    # In a folder of its own: results.json beside the checkpoint says that the training is finished.
    beside = command.run if command.run.is_dir() else command.run.parent
    folder = beside / "evaluation" if command.out is None else command.out
    if (beside / CALLER).exists():
        raise ValueError(
            f"{beside} was trained from Python on images or behind a front of its own, which this command does not "
            f"have: evaluate it there, with fastat.evaluation.evaluate"
        )
    size = network.config.run.eval_size if command.eval_size is None else command.eval_size
    evaluate_network(network, folder, command.data_root, size, command.graph, command.quiet)


def evaluate_network(
    network: Network, folder: Path, data_root: Path | None, size: int | None, graph: bool, quiet: bool
) -> None:
    """Evaluates, draws, writes results.json, prints the table."""
    config = network.config
    device = next(network.model.parameters()).device
    if size is not None and size < 1:
        raise ConfigError("eval_size", f"eval_size must be at least 1, got {size}")
    whole = data.load(config.dataset.data, data_root).test
    if size is None and device.type == "cpu":
        size = _CPU_EVAL_SIZE
    elif size is None and isinstance(whole, data.Streamed):
        size = _LARGE_EVAL_SIZE
    test = whole.subset(size, config.run.seed).load().to(device)
    if not quiet:
        print(f"evaluating on {len(test)} test images, and drawing", flush=True)
    show(write_results(network, test, folder, graph="auto" if graph else False), folder)


def show(results: Mapping[str, Any], folder: Path) -> None:
    """Prints the table and the names of the figures."""
    print(f"\n{results_table(results)}\n\nfigures:")
    for name in results["figures"]:
        print(f"  {folder / name}")
