"""The command ``fastat train``."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fastat.cli.commands import Train
from fastat.cli.evaluate import evaluate_network, show
from fastat.report import whole_results
from fastat.support.distributed import agreed, rank_of, torchrun_group
from fastat.training import (
    CHECKPOINT,
    ConfigError,
    Record,
    TrainConfig,
    as_fields,
    best_state,
    check_same_run,
    choose_device,
    has_events,
    held,
    record_of,
    train_configured,
)

_LONGEST = 1e7  # seconds


def run_train(command: Train) -> None:
    """Trains, or goes on, and evaluates the network; shows the results of a run that is finished."""
    if not 0 < command.timeout <= _LONGEST:
        raise ConfigError("timeout", f"timeout must be above 0 and at most {_LONGEST:g}, got {command.timeout}")
    config, device = command.settings, choose_device(command.device)
    record = record_of(config)
    folder = default_folder(config) if command.out is None else command.out
    network = None
    with ExitStack() as stack:  # the folder is held until the results are there, the group left before
        with torchrun_group(device, command.timeout) as group:
            stack.enter_context(held(folder, record, group, device, command.quiet))
            first = rank_of(group) == 0
            results = _finished(folder, record, command.tensorboard)
            if not agreed(results is not None, group, device):
                if first and not command.quiet:
                    where = str(device) if group is None else f"{group.size()} processes"
                    what = f"{config.dataset.data}, {config.network.model}"
                    print(f"training on {what}, on {where}; run folder {folder}", flush=True)
                network = train_configured(
                    config,
                    folder,
                    data_root=command.data_root,
                    download=command.download,
                    device=device,
                    group=group,
                    graph=command.graph,
                    checkpoint_every=command.checkpoint_every,
                    tensorboard=command.tensorboard,
                    quiet=command.quiet,
                )
        if first and network is not None:
            assert network.test is not None
            evaluate_network(network, network.test, folder, config.run.eval_size, command.graph, command.quiet)
        elif first:
            assert results is not None
            print(f"{folder} holds this run, finished (delete it to train again)")
            for lost in _lost(folder, record, results):
                print(lost)
            show(results, folder)


def _finished(folder: Path, record: Record, tensorboard: bool) -> dict[str, Any] | None:
    """The results of a run that is over, if the folder has it with all files that training and measuring it makes."""
    saved = check_same_run(folder, record)
    if saved is None or saved.fields != record.fields:
        return None
    events = not tensorboard or has_events(folder)
    return whole_results(folder) if events else None


def _lost(folder: Path, record: Record, results: Mapping[str, Any]) -> Iterator[str]:
    """What is worth to know of a finished run whose weights are gone."""
    if not (folder / CHECKPOINT).exists():
        yield f"{folder} has no {CHECKPOINT}: the run cannot be made longer"
    if results["which"] == "best":
        try:
            best_state(folder, record, results["epoch"])
        except ValueError as error:
            yield str(error)


def default_folder(config: TrainConfig) -> Path:
    """runs/<data>-<protocol>-<model>-<eight characters of a hash>: one folder a configuration.

    The hash is of what differs from a field's default, so that a field that is new does not change old names.
    """
    usual = as_fields(TrainConfig())
    changed = {field: value for field, value in as_fields(config).items() if value != usual[field]}
    digest = hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()[:8]
    parts = [_as_file_name(config.dataset.data), config.method.protocol, _as_file_name(config.network.model), digest]
    return Path("runs") / "-".join(parts)


def _as_file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-")[-40:]
