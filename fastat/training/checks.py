"""Which values a configuration may have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastat import data, models
from fastat.protocols import PROTOCOLS, ProtocolConfig
from fastat.training.config import (
    ConfigError,
    OptimizerConfig,
    RunConfig,
    TrainConfig,
    as_fields,
    check,
    check_part,
    check_types,
)

_AT_LEAST_0 = (
    "eps", "momentum", "weight_decay", "r", "gamma", "beta", "trades_beta", "mart_lambda", "grad_align", "awp",
    "clip_grad", "cutout", "val_size", "eps_warmup", "awp_warmup",
)  # fmt: skip
_ABOVE_0 = ("lr", "tau")
_BELOW_1 = ("alpha", "label_noise", "label_smoothing", "ema_decay", "swa_start")
_AT_LEAST_1 = ("attack_steps", "replays", "epochs", "patience", "eval_size", "width")


def check_config(config: TrainConfig) -> None:
    """Raises :class:`ConfigError` if a value is out of its range; the message names the field and the value."""
    check_types(config)
    values = as_fields(config)

    def rule(field: str, holds: bool, text: str) -> None:
        check(holds, field, values[field], text)

    for field, check_name in (("data", data.check_name), ("model", models.check_name)):
        try:
            check_name(values[field])
        except ValueError as error:
            raise ConfigError(field, str(error)) from error
    network, method, dataset = config.network, config.method, config.dataset
    rule("width", network.width is None or network.model in models.WITH_WIDTH, f"left out for {network.model}")
    libraries = network.model.startswith(("timm:", "torchvision:"))
    rule(
        "pretrained", not network.pretrained or libraries, f"left out for {network.model}: no weights are known for it"
    )
    rule("init", network.init is None or not network.pretrained, "left out where pretrained is given")
    _check_protocol(method)
    _check_ranges(values)
    rule("step_size", method.step_size is None or 0 < method.step_size < math.inf, "finite and above 0")
    rule("label_smoothing", method.loss != "mart" or method.label_smoothing == 0, "0 for the loss of mart")
    rule("train_size", dataset.train_size is None or dataset.train_size >= 2, "at least 2")
    rule("patience", config.run.patience is None or dataset.val_size > 0, "left out where val_size is 0")
    _check_optimizer(config.optimizer)


def check_settings(optimizer: OptimizerConfig, run: RunConfig) -> None:
    """The same of these parts alone."""
    for part in (optimizer, run):
        check_part(part)
        _check_ranges(dataclasses.asdict(part))
    _check_optimizer(optimizer)


def _check_ranges(values: Mapping[str, Any]) -> None:
    """Of those of the fields that are there."""

    def rule(fields: Sequence[str], holds: Callable[[Any], bool], text: str) -> None:
        for field in fields:
            if field in values:
                check(holds(values[field]), field, values[field], text)

    rule(_AT_LEAST_0, lambda value: 0 <= value < math.inf, "a finite number >= 0")
    rule(_ABOVE_0, lambda value: 0 < value < math.inf, "a finite number above 0")
    rule(_BELOW_1, lambda value: 0 <= value < 1, "in [0, 1)")
    rule(_AT_LEAST_1, lambda value: value is None or value >= 1, "at least 1")


def _check_optimizer(settings: OptimizerConfig) -> None:
    def rule(field: str, holds: bool, text: str) -> None:
        check(holds, field, getattr(settings, field), text)

    sgd, peaked = settings.optimizer == "sgd", settings.schedule in ("cyclic", "one-cycle")
    rule("nesterov", not settings.nesterov or (sgd and settings.momentum > 0), "off without a momentum of sgd")
    rising = list(settings.milestones) == sorted(settings.milestones) and all(0 < t < 1 for t in settings.milestones)
    rule("milestones", rising, "rising, in (0, 1)")
    rule("batch_size", settings.batch_size >= 2, "at least 2: batch norm needs two images")
    rule("eps_warmup", settings.eps_warmup <= settings.epochs, f"at most the {settings.epochs} epochs of the run")
    if settings.peak is not None:
        rule("peak", peaked, "left out but for cyclic and one-cycle")
        rule("peak", 0 < settings.peak < 1, "in (0, 1)")
    if settings.peak_momentum is not None:
        moved = sgd and settings.schedule == "cyclic" and not settings.nesterov
        rule("peak_momentum", moved, "left out but for sgd on cyclic, without nesterov")
        rule("peak_momentum", 0 <= settings.peak_momentum <= settings.momentum != 0, "in [0, momentum]")


def _check_protocol(method: ProtocolConfig) -> None:
    """What a protocol's name says must hold: a configuration made with the name alone would train something else.

    A name that sets the objective leaves attack and loss free, one that sets the loss the attack.
    """
    sets = PROTOCOLS[method.protocol]
    named = {"objective": "mean", "loss": "cross-entropy", "attack": "pgd", **sets}
    for field in ("objective", "loss", "attack"):
        value = getattr(method, field)
        rule = f"{named[field]} under protocol {method.protocol} (default_config sets it)"
        check(value == named[field], field, value, rule)
        if field in sets:
            break
    aligned = method.protocol != "gradalign" or method.grad_align > 0
    check(aligned, "grad_align", method.grad_align, "above 0 under gradalign")
