"""From a command line to a command. Tyro reads it, shows the help, and says what is wrong."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import tyro

from fastat.cli.commands import Command, Evaluate, Info, Preset, Report, Theory, TheoryAll, TheoryPage, Train
from fastat.protocols import PROTOCOL_FIELDS, ProtocolName
from fastat.theory import EXPERIMENTS, experiment
from fastat.training import TrainConfig, check_config, config_from, default_config, with_fields

_THEORY = (
    "The theory experiments of five papers: numbers, figures, and what was and was not reproduced. The same command "
    "again continues one that was stopped."
)
_CONFIG = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True)
class _Named:
    """Flags that the defaults of others follow, which --help should show."""

    data: str = "digits"
    protocol: str | None = None
    config: Path | None = None
    preset: str = "quick"


def parse(given: Sequence[str]) -> Command:
    """The command of a command line.

    Raises:
        ValueError: a value of the configuration is out of its range, or the file of --config cannot be read.
        SystemExit: tyro refused the command line, or showed its help.
    """
    if len(given) > 1 and given[0] == "train" and not given[1].startswith("-"):
        given = ["train", "--protocol", *given[1:]]
    prog = " ".join(["fastat", *given[:1]])
    named, _ = tyro.cli(_Named, prog=prog, args=given[1:], config=_CONFIG, return_unknown_args=True, add_help=False)
    if given[:1] == ["theory"]:
        found = _one_of(_theory_commands(given[1:2], named), prog, given[1:], _THEORY)
    else:
        found = _one_of(_commands(given[:1], named), "fastat", given, "Fast adversarial training.")
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


def _commands(chosen: Sequence[str], named: _Named) -> dict[str, tuple[Command, str]]:
    """The commands, which the defaults of their flags are taken from, and their help."""
    commands: dict[str, Command] = {
        "train": Train(_starting_point(named) if chosen == ["train"] else TrainConfig()),
        "evaluate": Evaluate(run=tyro.MISSING),
        "report": Report(runs=tyro.MISSING),
        "theory": TheoryAll(),
        "info": Info(),
    }
    return {name: (one, _THEORY if name == "theory" else _help(one)) for name, one in commands.items()}


def _theory_commands(chosen: Sequence[str], named: _Named) -> dict[str, tuple[Command, str]]:
    """What follows the word theory, likewise. The settings of one experiment are imported, if it is the chosen one."""
    preset: Preset = "paper" if named.preset == "paper" else "quick"  # tyro refuses others
    found: dict[str, tuple[Command, str]] = {}
    for name, text in EXPERIMENTS.items():
        settings = experiment(name).PRESETS[preset] if chosen == [name] else None
        found[name] = Theory(name=name, settings=settings, preset=preset), text
    every, page = TheoryAll(), TheoryPage(folders=tyro.MISSING)
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


def _starting_point(named: _Named) -> TrainConfig:
    """The defaults of the flags of ``train``: those of the dataset and the protocol, or of the file of --config."""
    protocol: Any = named.protocol if named.protocol in get_args(ProtocolName) else None  # tyro refuses others
    if named.config is None:
        return default_config(named.data, protocol or "pgd-at")
    try:
        config = config_from(json.loads(named.config.read_text()))
    except (OSError, ValueError) as error:
        raise ValueError(f"--config: {named.config}: {error}") from error
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
