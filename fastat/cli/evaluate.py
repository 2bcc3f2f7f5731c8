"""The command ``fastat evaluate``, and what ``fastat train`` ends with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastat import data
from fastat.cli.commands import Evaluate
from fastat.cli.usage import UsageError
from fastat.report import results_table, write_results
from fastat.training import (
    CALLER,
    ConfigError,
    Network,
    OtherCodeError,
    check_config,
    choose_device,
    default_config,
    load_network,
    network_of_weights,
)

_CPU_EVAL_SIZE = 500  # PGD-50x10 on all of a test set would take longer on a CPU than the training
_LARGE_EVAL_SIZE = 5000  # of ImageNet, as robustness benchmarks take; all would fill the memory


def run_evaluate(command: Evaluate) -> None:
    """Evaluates the network of a run folder or of a checkpoint file."""
    if command.run is None:
        raise UsageError("evaluate needs a run: fastat evaluate RUN, its folder or a checkpoint file of it")
    try:
        network = load_network(command.run, command.device, which=command.which, model=command.model)
        if network.epoch == 0:
            raise ValueError(f"{command.run} has no finished epoch yet")
    except OtherCodeError as error:
        if command.model is None or command.data is None:
            example = f"fastat evaluate {command.run} --model preact_resnet18 --data cifar10"
            raise UsageError(f"{error}: say which network its weights are for, and on which data: {example}") from error
        network = _of_other_code(command, command.run, command.model, command.data)
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


def _of_other_code(command: Evaluate, file: Path, model: str, name: str) -> Network:
    """The network of weights that other code saved."""
    given: dict[str, Any] = {"norm": command.norm, "eps": command.eps, "normalize": command.normalize}
    config = default_config(name, model=model, **{field: value for field, value in given.items() if value is not None})
    check_config(config)
    split = data.load(name, command.data_root)
    network, notes = network_of_weights(config, split, file, choose_device(command.device))
    for note in notes:
        print(note, flush=True)
    return network


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
