"""From a command line to a command: the defaults of its flags, and one line about what is wrong."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from fastat.cli.commands import Command, Evaluate, Info, Report, Theory, Train
from fastat.protocols import PROTOCOL_FIELDS, PROTOCOLS, ProtocolName
from fastat.training import ConfigError, TrainConfig, check_config, config_from, default_config, with_fields


def parse(given: Sequence[str]) -> Command:
    """The command of a command line.

    Raises:
        ModuleNotFoundError: tyro is not installed.
        ValueError: a value of the configuration is out of its range, or the file of --config cannot be read.
        SystemExit: tyro refused the command line, or showed its help.
    """
    if given[:1] == ["theory"]:  # its flags depend on the experiment
        return Theory(tuple(given[1:]))
    if list(given) == ["info"]:  # what a plain installation, without tyro, is checked by
        return Info()
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
    found = read(kind, None, "fastat", given, "Fast adversarial training.")
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


def _tyro() -> Any:
    try:
        import tyro
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the command line needs tyro: pip install 'fastat[cli]'") from error
    return tyro


def read(kind: Any, default: Any, prog: str, given: Sequence[str], description: str | None = None) -> Any:
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
    return with_fields(config, **decided)


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
