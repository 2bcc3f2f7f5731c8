"""The command line: ``python -m fastat train | evaluate | info``."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastat import data, info
from fastat.config import TrainConfig, check_config, default_config
from fastat.evaluation import evaluate
from fastat.report import results_json, results_table, write_figures
from fastat.run import Network, check_same_config, choose_device, load_network
from fastat.training import train

_CPU_EVAL_SIZE = 500  # PGD-50x10 on all of a test set would take longer on a CPU than the training


@dataclass(frozen=True)
class Train:
    """Adversarially train a network, judge it, and draw figures. The defaults depend on --data and --protocol.

    The same command again continues a run that was stopped, and shows the results of one that is finished.
    """

    config: TrainConfig
    out: Path | None = None
    """Folder of the run; by default runs/ and a name that stands for the configuration."""
    data_root: Path | None = None
    """Folder with the datasets; by default the environment variable FASTAT_DATA."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""
    checkpoint_every: float = 300.0
    """Seconds between two checkpoints within an epoch."""


@dataclass(frozen=True)
class Evaluate:
    """Judge the network of a run folder as it is now, into its folder "evaluation"."""

    run: Path
    """Folder of the run."""
    eval_size: int | None = None
    """Number of test images; by default what the run was trained with."""
    data_root: Path | None = None
    """Folder with the datasets; by default the environment variable FASTAT_DATA."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""


@dataclass(frozen=True)
class Info:
    """Show how fastat was built, and the devices it finds."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command, by default that of the process's arguments.

    Raises:
        SystemExit: the command line is wrong, or the command failed for a reason that the message explains.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        command = parse(given)
        if isinstance(command, Train):
            _train(command)
        elif isinstance(command, Evaluate):
            _evaluate(command)
        else:
            info.main()
    except (FileNotFoundError, FloatingPointError, ModuleNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from where it was", file=sys.stderr)
        raise SystemExit(130) from None


def parse(given: Sequence[str]) -> Train | Evaluate | Info:
    """The command of a command line.

    Raises:
        ModuleNotFoundError: tyro is not installed.
        ValueError: a value of the configuration is out of its range.
        SystemExit: tyro refused the command line, or showed its help.
    """
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the command line needs tyro: pip install 'fastat[cli]'") from error
    # these two are looked up first: they decide the defaults of all other flags, which --help should show
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    peek.add_argument("--data", default="digits")
    peek.add_argument("--protocol", default="pgd-at")
    named = peek.parse_known_args(list(given))[0]
    config = default_config(named.data, named.protocol)
    commands = {"train": Train(config), "evaluate": Evaluate(run=tyro.MISSING), "info": Info()}
    helps = {name: inspect.getdoc(command) or "" for name, command in commands.items()}
    found: Any = tyro.cli(
        tyro.extras.subcommand_type_from_defaults(commands, helps, prefix_names=False),
        prog="fastat",
        description="Fast adversarial training.",
        args=given,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        registry=_fractions(tyro),
    )
    assert isinstance(found, Train | Evaluate | Info)
    if isinstance(found, Train):
        check_config(found.config)
    return found


def parse_number(text: str) -> float:
    """A decimal, or a fraction like 8/255.

    Raises:
        ValueError: the text is neither.
    """
    match = re.fullmatch(r"\s*([^/]+)/([^/]+)\s*", text)
    if match is None:
        return float(text)
    if float(match[2]) == 0:
        raise ValueError(f"division by zero in {text!r}")
    return float(match[1]) / float(match[2])


def default_folder(config: TrainConfig) -> Path:
    """runs/<data>-<model>-<eight characters of a hash of the configuration>: another configuration, another folder."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9]+", "-", config.data).strip("-")[-40:]
    return Path("runs") / f"{name}-{config.model}-{digest}"


def _train(command: Train) -> None:
    config = command.config
    folder = default_folder(config) if command.out is None else command.out
    results = folder / "results.json"
    check_same_config(folder, config)
    if results.exists():
        print(f"{folder} holds this run, finished (delete it to train again)")
        _show(json.loads(results.read_text()), sorted((folder / "figures").glob("*.png")))
        return
    device = choose_device(command.device)
    print(f"training on {config.data}, {config.model}, on {device}; run folder {folder}", flush=True)
    network = train(
        config,
        folder,
        data_root=command.data_root,
        device=device,
        checkpoint_every=command.checkpoint_every,
    )
    _judge(network, folder, command.data_root, config.eval_size)


def _evaluate(command: Evaluate) -> None:
    network = load_network(command.run, command.device)
    if not network.history:
        raise ValueError(f"{command.run} has no finished epoch yet")
    # In a folder of its own: results.json beside the checkpoint says that the training is finished.
    folder = command.run / "evaluation"
    _judge(network, folder, command.data_root, command.eval_size or network.config.eval_size)


def _judge(network: Network, folder: Path, data_root: Path | None, size: int | None) -> None:
    """Evaluates, draws, writes results.json, prints the table."""
    config = network.config
    device = next(network.model.parameters()).device
    test = data.load(config.data, data_root).test
    if size is None and device.type == "cpu":
        size = _CPU_EVAL_SIZE
    test = test.subset(size, config.seed).to(device)
    print(f"evaluating on {len(test)} test images, and drawing", flush=True)
    figures = write_figures(network, test, folder / "figures")
    found = evaluate(
        network.model,
        test.pixels(),
        test.labels,
        config.eps,
        config.norm,
        seed=config.seed,
        sample_ids=test.ids,
    )
    # last: a run folder with results is complete
    results = results_json(network, found, folder / "results.json")
    _show(results, figures)


def _show(results: Mapping[str, Any], figures: Sequence[Path]) -> None:
    print(f"\n{results_table(results)}\n\nfigures:")
    for path in figures:
        print(f"  {path}")


def _fractions(tyro: Any) -> Any:
    """Lets every float flag take 8/255 as well as 0.03."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(type_info: Any) -> Any:
        if type_info.type is not float:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT",
            instance_from_str=lambda texts: parse_number(texts[0]),
            is_instance=lambda value: isinstance(value, float | int),
            str_from_instance=lambda value: [repr(value)],
        )

    return registry
