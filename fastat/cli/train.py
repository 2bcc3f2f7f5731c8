"""The command ``fastat train``."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from fastat.cli.commands import Train
from fastat.cli.evaluate import evaluate_network, show
from fastat.report import RESULTS_SHOWN
from fastat.support.distributed import agreed, rank_of, torchrun_group
from fastat.support.foreign_json import read_file
from fastat.training import (
    TrainConfig,
    as_fields,
    check_same_run,
    choose_device,
    record_of,
    train_configured,
)


def run_train(command: Train) -> None:
    """Trains, or goes on, and evaluates the network; shows the results of a run that is finished."""
    config, device = command.settings, choose_device(command.device)
    folder = default_folder(config) if command.out is None else command.out
    results, record = folder / "results.json", record_of(config)
    saved = check_same_run(folder, record)
    finished = results.exists() and saved is not None and saved.fields == record.fields
    network = None
    with torchrun_group(device) as group:
        first = rank_of(group) == 0
        if not agreed(finished, group, device):
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
        print(f"{folder} holds this run, finished (delete it to train again)")
        show(read_file(results, RESULTS_SHOWN), folder)


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
