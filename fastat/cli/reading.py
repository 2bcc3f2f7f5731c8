"""From a command line to a command. Tyro reads it, shows the help, and says what is wrong."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import tyro

from fastat import data, models
from fastat.cli.commands import Command, Evaluate, Info, Report, Theory, TheoryAll, TheoryPage, Train
from fastat.cli.usage import UsageError
from fastat.protocols import PROTOCOL_FIELDS, check_protocol_name
from fastat.theory import EXPERIMENTS, experiment
from fastat.training import (
    ConfigError,
    OptimizerName,
    TrainConfig,
    check_config,
    config_from,
    default_config,
    read_record,
    with_fields,
)

_ABOUT = "Fast adversarial training. fastat --version shows which one this is."
_AGAIN = "The same command again continues an experiment that was stopped."
_THEORY = f"The theory experiments of five papers: numbers, figures, and what was and was not reproduced. {_AGAIN}"
_Basis = TypeVar("_Basis")
_CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True)
class _TrainBasis:
    """Flags of ``train`` that the defaults of others follow, which --help should show."""

    data: str = "digits"
    protocol: str | None = None
    optimizer: str = "sgd"
    config: Path | None = None


@dataclass(frozen=True)
class _TheoryBasis:
    """The same for an experiment."""

    preset: str = "quick"


def parse(given: Sequence[str]) -> Command:
    """The command of a command line.

    Raises:
        ValueError: a value of the configuration is out of its range, or the file of --config cannot be read.
        SystemExit: tyro refused the command line, or showed its help.
    """
    name, rest = given[0] if given else "", list(given[1:])
    if name == "train":
        if rest and not rest[0].startswith("-"):
            rest = ["--protocol", *rest]
        found = _one_of(_commands(_starting_point(rest)), "fastat", [name, *rest], _ABOUT)
    elif name == "theory":
        found = _one_of(_theory_commands(rest), "fastat theory", rest, _THEORY)
    else:
        found = _one_of(_commands(TrainConfig()), "fastat", given, _ABOUT)
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


def _commands(settings: TrainConfig) -> dict[str, tuple[Command, str]]:
    """The commands, which the defaults of their flags are taken from, and their help."""
    commands: dict[str, Command] = {
        "train": Train(settings),
        "evaluate": Evaluate(),
        "report": Report(),
        "theory": TheoryAll(),
        "info": Info(),
    }
    return {name: (one, _THEORY if name == "theory" else _help(one)) for name, one in commands.items()}


def _theory_commands(given: Sequence[str]) -> dict[str, tuple[Command, str]]:
    """What follows the word theory, likewise. The settings of one experiment are imported, if it is the chosen one."""
    chosen = given[0].replace("_", "-") if given else ""  # as tyro reads it
    found: dict[str, tuple[Command, str]] = {
        name: (Theory(name=name, settings=None), text) for name, text in EXPERIMENTS.items()
    }
    if chosen in EXPERIMENTS:
        presets = experiment(chosen).PRESETS
        named = _basis(_TheoryBasis, f"fastat theory {chosen}", given[1:]).preset
        preset: Any = named if named in presets else "quick"
        default = Theory(name=chosen, settings=presets[preset], preset=preset)
        found[chosen] = default, f"{EXPERIMENTS[chosen]}.\n\n{_AGAIN}"
    every, page = TheoryAll(), TheoryPage()
    return {**found, "all": (every, _help(every)), "page": (page, _help(page))}


def _help(command: Command) -> str:
    return inspect.getdoc(command) or ""


def _one_of(commands: Mapping[str, tuple[Command, str]], prog: str, given: Sequence[str], description: str) -> Command:
    defaults = {name: default for name, (default, _) in commands.items()}
    helps = {name: text for name, (_, text) in commands.items()}
    kind = tyro.extras.subcommand_type_from_defaults(defaults, helps, prefix_names=False)
    found: Command = tyro.cli(
        kind, prog=prog, description=description, args=given or ["--help"], config=_CONFIG, registry=_fractions()
    )
    return found


def _basis(kind: type[_Basis], prog: str, given: Sequence[str]) -> _Basis:
    """These flags of a command line, whatever else it has; a value that they cannot have is left to the second pass."""
    own = [text for text in given if not text.startswith("--tyro-")]  # which print the completions of a shell
    found: _Basis = tyro.cli(kind, prog=prog, args=own, config=_CONFIG, return_unknown_args=True, add_help=False)[0]
    return found


def _starting_point(given: Sequence[str]) -> TrainConfig:
    """The defaults of the flags of ``train``: those of the dataset and the protocol, or of the file of --config."""
    basis = _basis(_TrainBasis, "fastat train", given)
    protocol: Any = basis.protocol
    if protocol is not None:
        try:
            check_protocol_name(protocol)
        except ValueError as error:
            raise ConfigError("protocol", str(error)) from error
    if basis.config is None:
        known = basis.optimizer in get_args(OptimizerName)  # another one the second pass refuses
        return default_config(basis.data, protocol or "pgd-at", optimizer=basis.optimizer if known else "sgd")
    try:
        record = read_record(basis.config)
        if record.of_objects:
            raise ValueError("it is of a run of objects, from Python, which no command line has")
        config = config_from(record.fields)
        check_config(config)
    except (OSError, ValueError) as error:
        named = str(error) if str(basis.config) in str(error) else f"{basis.config}: {error}"
        raise UsageError(f"--config: {named}") from error
    for flag, named, own in (
        ("--model", config.network.model, models.is_own),
        ("--data", config.dataset.data, data.is_own),
    ):
        if own(named) and not any(text.split("=")[0] == flag for text in given):
            raise UsageError(f"--config: {basis.config} names a function, which no file can call: pass {flag} {named}")
    if protocol is None or protocol == config.method.protocol:
        return config
    fresh = default_config(config.dataset.data, protocol)
    decided = {field: getattr(fresh.method, field) for field in (*PROTOCOL_FIELDS, "protocol")}
    return with_fields(config, **decided)


def _fractions() -> tyro.constructors.ConstructorRegistry:
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
