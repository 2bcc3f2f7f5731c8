"""Which values a configuration may have."""

from __future__ import annotations

import math

from fastat import data, models
from fastat.protocols import PROTOCOLS, ProtocolConfig
from fastat.training.config import ConfigError, TrainConfig, as_fields, check, check_types

_AT_LEAST_0 = (
    "eps", "momentum", "weight_decay", "r", "gamma", "beta", "trades_beta", "mart_lambda", "grad_align", "awp",
    "clip_grad", "cutout", "val_size",
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
    network, method, optimizer, dataset = config.network, config.method, config.optimizer, config.dataset
    rule("width", network.width is None or network.model in models.WITH_WIDTH, f"left out for {network.model}")
    libraries = network.model.startswith(("timm:", "torchvision:"))
    rule(
        "pretrained", not network.pretrained or libraries, f"left out for {network.model}: no weights are known for it"
    )
    rule("init", network.init is None or not network.pretrained, "left out where pretrained is given")
    _check_protocol(method)
    for field in _AT_LEAST_0:
        rule(field, 0 <= values[field] < math.inf, "a finite number >= 0")
    for field in _ABOVE_0:
        rule(field, 0 < values[field] < math.inf, "a finite number above 0")
    for field in _BELOW_1:
        rule(field, 0 <= values[field] < 1, "in [0, 1)")
    rule("step_size", method.step_size is None or 0 < method.step_size < math.inf, "finite and above 0")
    rule("nesterov", not optimizer.nesterov or optimizer.momentum > 0, "off where momentum is 0")
    milestones = optimizer.milestones
    rising = list(milestones) == sorted(milestones) and all(0 < t < 1 for t in milestones)
    rule("milestones", rising, "rising, in (0, 1)")
    rule("label_smoothing", method.loss != "mart" or method.label_smoothing == 0, "0 for the loss of mart")
    rule("batch_size", optimizer.batch_size >= 2, "at least 2: batch norm needs two images")
    rule("train_size", dataset.train_size is None or dataset.train_size >= 2, "at least 2")
    rule("patience", config.run.patience is None or dataset.val_size > 0, "left out where val_size is 0")
    for field in _AT_LEAST_1:
        rule(field, values[field] is None or values[field] >= 1, "at least 1")


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
