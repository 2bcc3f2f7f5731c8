"""The command line: ``fastat train | evaluate | report | theory | info``, or ``python -m fastat ...``."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import inspect
import io
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fastat import data
from fastat.cli import theory
from fastat.kernels import describe_environment
from fastat.protocols import PROTOCOL_FIELDS, PROTOCOLS, ProtocolName
from fastat.report import judge, results_table, write_page
from fastat.support.distributed import agreed, rank_of, torchrun_group
from fastat.training import (
    CALLER,
    ConfigError,
    Network,
    TrainConfig,
    check_config,
    check_same_config,
    choose_device,
    config_from,
    default_config,
    flat,
    load_network,
    train,
    updated,
)

_CPU_EVAL_SIZE = 500  # PGD-50x10 on all of a test set would take longer on a CPU than the training
_LARGE_EVAL_SIZE = 5000  # of ImageNet, as robustness benchmarks take; all would fill the memory


@dataclass(frozen=True)
class Train:
    """fastat train [PROTOCOL] [flags]: adversarially train a network, judge it, and draw figures.

    PROTOCOL is one of {protocols}; the defaults of the flags follow it and --data. The same command again continues a
    run that was stopped, and shows the results of one that is finished. On several GPUs or machines: torchrun
    --nproc-per-node N -m fastat train ...
    """

    settings: TrainConfig
    config: Path | None = None
    """A config.json, of an earlier run for example, that has the defaults of the other flags."""
    out: Path | None = None
    """Folder of the run, which the processes of torchrun share; by default runs/ and a name that stands for the
    configuration."""
    data_root: Path | None = None
    """Folder with the datasets; by default the environment variable FASTAT_DATA."""
    download: bool = False
    """Fetch the dataset into that folder if it is missing there."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""
    graph: bool = True
    """On a GPU, replay steps and attacks from CUDA graphs where that can be; the training is the same."""
    checkpoint_every: float = 300.0
    """Seconds between two checkpoints within an epoch."""
    tensorboard: bool = False
    """Also write the curves for TensorBoard, into the run's folder "tensorboard"."""


@dataclass(frozen=True)
class Evaluate:
    """fastat evaluate RUN [flags]: judge the network of a run folder as it is now, or of a checkpoint file.

    Writes its results and figures into the folder "evaluation" beside the checkpoint.
    """

    run: Path
    """Folder of a run, or a checkpoint file of one."""
    which: Literal["best", "last"] | None = None
    """Network of a run folder: of its best epoch or its last; by default what the run selects."""
    eval_size: int | None = None
    """Number of test images; by default what the run was trained with."""
    out: Path | None = None
    """Folder of the results."""
    data_root: Path | None = None
    """Folder with the datasets; by default the environment variable FASTAT_DATA."""
    device: str | None = None
    """cpu or cuda; by default the GPU if there is one."""
    graph: bool = True
    """On a GPU, replay the attacks from CUDA graphs where that can be; the results are the same up to rounding."""


@dataclass(frozen=True)
class Report:
    """fastat report RUN [RUN ...] [flags]: one HTML page, complete in itself, that shows runs side by side."""

    runs: tuple[Path, ...]
    """Folders of runs, finished or not."""
    out: Path = Path("report.html")
    """File of the page."""


@dataclass(frozen=True)
class Theory:
    """fastat theory EXPERIMENT [flags]: the theory experiments of five papers; fastat theory --help lists them."""

    arguments: tuple[str, ...] = ()
    """What follows the word theory."""


@dataclass(frozen=True)
class Info:
    """fastat info: show how fastat was built, and the devices it finds."""


Command = Train | Evaluate | Report | Theory | Info


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
        elif isinstance(command, Report):
            print(f"report: {write_page(command.runs, command.out)}")
        elif isinstance(command, Theory):
            theory.main(command.arguments, _read)
        else:
            _info()
    except ConfigError as error:
        raise SystemExit(f"error: --{_flag(error.field)}: {error}") from error
    except (ArithmeticError, ModuleNotFoundError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from where it was", file=sys.stderr)
        raise SystemExit(130) from None


def parse(given: Sequence[str]) -> Command:
    """The command of a command line.

    Raises:
        ModuleNotFoundError: tyro is not installed.
        ValueError: a value of the configuration is out of its range, or the file of --config cannot be read.
        SystemExit: tyro refused the command line, or showed its help.
    """
    if given[:1] == ["theory"]:  # its flags depend on the experiment
        return Theory(tuple(given[1:]))
    tyro = _tyro()
    given = _names_as_flags(given)
    commands = {
        "train": Train(_starting_point(given)),
        "evaluate": Evaluate(run=tyro.MISSING),
        "report": Report(runs=tyro.MISSING),
        "theory": Theory(),
        "info": Info(),
    }
    helps = {name: inspect.cleandoc(command.__doc__ or "") for name, command in commands.items()}
    helps["train"] = helps["train"].format(protocols=", ".join(PROTOCOLS))
    kind = tyro.extras.subcommand_type_from_defaults(commands, helps, prefix_names=False)
    found = _read(kind, None, "fastat", given, "Fast adversarial training.")
    assert isinstance(found, Command)
    if isinstance(found, Train):
        check_config(found.settings)
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
    """runs/<data>-<protocol>-<model>-<eight characters of a hash>: one folder a configuration.

    The hash is of what differs from a field's default, so that a field that is new does not change old names.
    """
    usual = flat(TrainConfig())
    changed = {field: value for field, value in flat(config).items() if value != usual[field]}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    parts = [_as_file_name(config.dataset.data), config.method.protocol, _as_file_name(config.network.model), digest]
    return Path("runs") / "-".join(parts)


def _as_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[-40:]


def _tyro() -> Any:
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the command line needs tyro: pip install 'fastat[cli]'") from error
    return tyro


def _read(kind: Any, default: Any, prog: str, given: Sequence[str], description: str | None = None) -> Any:
    """An instance of the type from a command line; a wrong one is one line on the standard error."""
    tyro = _tyro()
    complaint = io.StringIO()
    given_default = {} if default is None else {"default": default}
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(
                kind,
                prog=prog,
                description=description,
                args=list(given),
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
                registry=_fractions(tyro),
                **given_default,
            )
    except SystemExit as stop:
        if stop.code == 2:
            raise SystemExit(f"error: {_one_line(complaint.getvalue())}") from None
        raise


def _names_as_flags(given: Sequence[str]) -> list[str]:
    """``train hr`` as ``train --protocol hr``, ``evaluate RUN`` as ``evaluate --run RUN``, ``report A B`` likewise."""
    flags = {"train": "--protocol", "evaluate": "--run", "report": "--runs"}
    if len(given) > 1 and given[0] in flags and not given[1].startswith("-"):
        return [given[0], flags[given[0]], *given[1:]]
    return list(given)


def _starting_point(given: Sequence[str]) -> TrainConfig:
    """The defaults of the flags of ``train``, which --help should show: they follow --data, --protocol and --config."""
    peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--data", "--protocol", "--config"):
        peek.add_argument(name)
    named = peek.parse_known_args(list(given))[0]
    if named.protocol is not None and named.protocol not in get_args(ProtocolName):
        known = ", ".join(get_args(ProtocolName))
        raise ConfigError("protocol", f"protocol must be one of {known}, got {named.protocol!r}")
    if given[:1] == ["train"] and named.config is not None:
        return _saved(Path(named.config), named.protocol)
    return default_config(named.data or "digits", named.protocol or "pgd-at")


def _saved(file: Path, protocol: ProtocolName | None) -> TrainConfig:
    """The configuration in the file, or what another protocol makes of it."""
    try:
        config = config_from(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"--config: {file}: {error}") from error
    if protocol is None or protocol == config.method.protocol:
        return config
    fresh = default_config(config.dataset.data, protocol)
    decided = {field: getattr(fresh.method, field) for field in (*PROTOCOL_FIELDS, "protocol")}
    return updated(config, **decided)


def _train(command: Train) -> None:
    config, device = command.settings, choose_device(command.device)
    folder = default_folder(config) if command.out is None else command.out
    results = folder / "results.json"
    check_same_config(folder, config)
    network = None
    with torchrun_group(device) as group:
        first = rank_of(group) == 0
        if not agreed(results.exists(), group, device):
            if first:
                where = str(device) if group is None else f"{group.size()} processes"
                what = f"{config.dataset.data}, {config.network.model}"
                print(f"training on {what}, on {where}; run folder {folder}", flush=True)
            network = train(
                config,
                folder,
                data_root=command.data_root,
                download=command.download,
                device=device,
                group=group,
                graph=command.graph,
                checkpoint_every=command.checkpoint_every,
                tensorboard=command.tensorboard,
            )
    if first and network is not None:
        _judge(network, folder, command.data_root, config.run.eval_size, command.graph)
    elif first:
        print(f"{folder} holds this run, finished (delete it to train again)")
        _show(json.loads(results.read_text()), folder)


def _evaluate(command: Evaluate) -> None:
    network = load_network(command.run, command.device, which=command.which)
    if network.epoch == 0:
        raise ValueError(f"{command.run} has no finished epoch yet")
    # In a folder of its own: results.json beside the checkpoint says that the training is finished.
    beside = command.run if command.run.is_dir() else command.run.parent
    folder = beside / "evaluation" if command.out is None else command.out
    if (beside / CALLER).exists():
        raise ValueError(
            f"{beside} was trained from Python on images or behind a front of its own, which this command does not "
            f"have: judge it there, with fastat.evaluation.evaluate"
        )
    size = network.config.run.eval_size if command.eval_size is None else command.eval_size
    _judge(network, folder, command.data_root, size, command.graph)


def _judge(network: Network, folder: Path, data_root: Path | None, size: int | None, graph: bool) -> None:
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
    print(f"evaluating on {len(test)} test images, and drawing", flush=True)
    _show(judge(network, test, folder, graph="auto" if graph else False), folder)


def _show(results: Mapping[str, Any], folder: Path) -> None:
    print(f"\n{results_table(results)}\n\nfigures:")
    for name in results["figures"]:
        print(f"  {folder / name}")


def _info() -> None:
    for name, value in describe_environment().items():
        print(f"{name:9} {value}")


def _flag(field: str) -> str:
    return field.replace("_", "-")


def _one_line(box: str) -> str:
    """What tyro prints in a box over many lines."""
    words = " ".join(re.sub(r"[^\x00-\x7f]", " ", box).split())
    return re.sub(r" *(Argument helptext:|For full helptext).*", "", words)


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
