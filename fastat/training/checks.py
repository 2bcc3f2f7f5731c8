"""Which values a configuration may have."""

from __future__ import annotations

import math
from types import SimpleNamespace

from fastat import data, models
from fastat.protocols import PROTOCOLS, ProtocolConfig
from fastat.training.config import ConfigError, TrainConfig, check, check_types, flat

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
    values = flat(config)
    for field, check_name in (("data", data.check_name), ("model", models.check_name)):
        try:
            check_name(values[field])
        except ValueError as error:
            raise ConfigError(field, str(error)) from error
    v = SimpleNamespace(**values)
    check(v.width is None or v.model in models.WITH_WIDTH, config, "width", f"left out for {v.model}")
    _check_protocol(config, config.method)
    for field in _AT_LEAST_0:
        check(0 <= values[field] < math.inf, config, field, "a finite number >= 0")
    for field in _ABOVE_0:
        check(0 < values[field] < math.inf, config, field, "a finite number above 0")
    for field in _BELOW_1:
        check(0 <= values[field] < 1, config, field, "in [0, 1)")
    check(v.step_size is None or 0 < v.step_size < math.inf, config, "step_size", "finite and above 0")
    check(not v.nesterov or v.momentum > 0, config, "nesterov", "off where momentum is 0")
    rising = list(v.milestones) == sorted(v.milestones) and all(0 < t < 1 for t in v.milestones)
    check(rising, config, "milestones", "rising, in (0, 1)")
    check(v.loss != "mart" or v.label_smoothing == 0, config, "label_smoothing", "0 for the loss of mart")
    check(v.batch_size >= 2, config, "batch_size", "at least 2: batch norm needs two images")
    check(v.train_size is None or v.train_size >= 2, config, "train_size", "at least 2")
    check(v.patience is None or v.val_size > 0, config, "patience", "left out where val_size is 0")
    for field in _AT_LEAST_1:
        check(values[field] is None or values[field] >= 1, config, field, "at least 1")


def _check_protocol(config: TrainConfig, method: ProtocolConfig) -> None:
    """What a protocol's name says must hold: a configuration made with the name alone would train something else.

    A name that sets the objective leaves attack and loss free, one that sets the loss the attack.
    """
    sets = PROTOCOLS[method.protocol]
    named = {"objective": "mean", "loss": "cross-entropy", "attack": "pgd", **sets}
    for field in ("objective", "loss", "attack"):
        rule = f"{named[field]} under protocol {method.protocol} (default_config sets it)"
        check(getattr(method, field) == named[field], config, field, rule)
        if field in sets:
            break
    check(method.protocol != "gradalign" or method.grad_align > 0, config, "grad_align", "above 0 under gradalign")
