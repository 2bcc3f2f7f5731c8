"""Training: ``train()``, its loop and step, the run folder, the configuration, schedules, monitors and progress."""

from fastat.training.config import (
    ConfigError,
    Schedule,
    TrainConfig,
    check_config,
    config_from,
    default_config,
)
from fastat.training.interrupt import interrupts_deferred
from fastat.training.loop import train
from fastat.training.network import (
    CALLER,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    Network,
    Which,
    choose_device,
    load_network,
    place,
)
from fastat.training.run import check_same_config, training_sets

__all__ = [
    "CALLER",
    "CONFIG",
    "ENVIRONMENT",
    "METRICS",
    "ConfigError",
    "Network",
    "Schedule",
    "TrainConfig",
    "Which",
    "check_config",
    "check_same_config",
    "choose_device",
    "config_from",
    "default_config",
    "interrupts_deferred",
    "load_network",
    "monitors",
    "place",
    "train",
    "training_sets",
]
