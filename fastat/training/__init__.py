"""Training: ``train()``, its loop and step, the run folder, the configuration, schedules, monitors and progress."""

from fastat.training import monitors
from fastat.training.checkpoint import check_same_config
from fastat.training.checks import check_config
from fastat.training.config import (
    ConfigError,
    OptimizerConfig,
    RunConfig,
    Schedule,
    TrainConfig,
    as_fields,
    config_from,
    describe_training,
    with_fields,
)
from fastat.training.defaults import default_config
from fastat.training.devices import choose_device, layout_of, placed
from fastat.training.images import training_sets
from fastat.training.interrupt import Terminated, interrupts_deferred
from fastat.training.network import (
    CALLER,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    Network,
    OtherCodeError,
    Which,
    load_network,
    network_of_weights,
)
from fastat.training.run import Run, open_run
from fastat.training.train import train

__all__ = [
    "CALLER",
    "CONFIG",
    "ENVIRONMENT",
    "METRICS",
    "ConfigError",
    "Network",
    "OptimizerConfig",
    "OtherCodeError",
    "Run",
    "RunConfig",
    "Schedule",
    "Terminated",
    "TrainConfig",
    "Which",
    "as_fields",
    "check_config",
    "check_same_config",
    "choose_device",
    "config_from",
    "default_config",
    "describe_training",
    "interrupts_deferred",
    "layout_of",
    "load_network",
    "monitors",
    "network_of_weights",
    "open_run",
    "placed",
    "train",
    "training_sets",
    "with_fields",
]
