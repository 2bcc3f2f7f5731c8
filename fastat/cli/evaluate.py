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


def run_evaluate(command: Evaluate) -> None:
    """Evaluates the network of a run folder or of a checkpoint file."""
    if command.run is None:
        raise UsageError("evaluate needs a run: fastat evaluate RUN, its folder or a checkpoint file of it")
    split: data.Split | None = None
    try:
        network = load_network(command.run, command.device, which=command.which, model=command.model)
        if network.epoch == 0:
            raise ValueError(f"{command.run} has no finished epoch yet")
    except OtherCodeError as error:
        if command.model is None or command.data is None:
            example = f"fastat evaluate {command.run} --model preact_resnet18 --data cifar10"
            raise UsageError(f"{error}: say which network its weights are for, and on which data: {example}") from error
        network, split = _of_other_code(command, command.run, command.model, command.data)
    # In a folder of its own: results.json beside the checkpoint says that the training is finished.
    beside = command.run if command.run.is_dir() else command.run.parent
    folder = beside / "evaluation" if command.out is None else command.out
    record = network.record
    own = bool(network.caller) or (beside / CALLER).exists()
    if not record.of_objects and own and not data.is_own(record.fields["data"]):
        raise ValueError(
            f"{beside} was trained from Python on images or behind a front of its own, which this command does not "
            f"have: evaluate it there, with fastat.evaluation.evaluate"
        )
    size = record.run.eval_size if command.eval_size is None else command.eval_size
    test = _data_of(command, beside, network) if split is None else split
    evaluate_network(network, test.test, folder, size, command.graph, command.quiet)


def _data_of(command: Evaluate, run: Path, network: Network) -> data.Split:
    """The data of a run: those of its name, or where there is none those that the command line names. No file can call
    for them where a function of one's own makes them."""
    named = network.record.fields["data"]
    if network.record.of_objects:
        if command.data is None:
            raise UsageError(
                f"{run} was trained from Python on data of its own: pass --data, or evaluate it there, "
                "fastat.load_network(folder, model=...).report(test)"
            )
        return data.load(command.data, command.data_root)
    if data.is_own(named) and command.data != named:
        raise UsageError(f"the data of {run} are made by {named}, which no file can call: pass --data {named}")
    return data.load(named, command.data_root)


def _of_other_code(command: Evaluate, file: Path, model: str, name: str) -> tuple[Network, data.Split]:
    """The network of weights that other code saved, and the data to measure it on."""
    given: dict[str, Any] = {"norm": command.norm, "eps": command.eps, "normalize": command.normalize}
    config = default_config(name, model=model, **{field: value for field, value in given.items() if value is not None})
    check_config(config)
    split = data.load(name, command.data_root)
    network, notes = network_of_weights(config, split, file, choose_device(command.device))
    for note in notes:
        print(note, flush=True)
    return network, split


def evaluate_network(
    network: Network, test: data.AnyDataset, folder: Path, size: int | None, graph: bool, quiet: bool
) -> None:
    """Evaluates, draws, writes results.json, prints the table."""
    if size is not None and size < 1:
        raise ConfigError("eval_size", f"eval_size must be at least 1, got {size}")
    some = network.some_of(test, size)
    if not quiet:
        print(f"evaluating on {len(some)} test images, and drawing", flush=True)
    show(write_results(network, some, folder, graph="auto" if graph else False), folder)


def show(results: Mapping[str, Any], folder: Path) -> None:
    """Prints the table and the names of the figures."""
    print(f"\n{results_table(results)}\n\nfigures:")
    for name in results["figures"]:
        print(f"  {folder / name}")
