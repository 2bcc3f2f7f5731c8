"""Training: ``train()``, its loop and step, the run folder, the configuration, schedules, monitors and progress."""

from fastat.support.interrupt import Terminated, interrupts_deferred
from fastat.training import monitors
from fastat.training.checkpoint import best_state
from fastat.training.checks import check_config
from fastat.training.config import (
    ConfigError,
    OptimizerConfig,
    OptimizerName,
    RunConfig,
    ScheduleName,
    ThreatConfig,
    TrainConfig,
    as_fields,
    config_from,
    describe_training,
    with_fields,
)
from fastat.training.configured import open_configured, train_configured
from fastat.training.defaults import default_config
from fastat.training.devices import choose_device, layout_of, placed
from fastat.training.event_log import has_events
from fastat.training.extending import check_same_run
from fastat.training.holding import held
from fastat.training.images import training_sets
from fastat.training.lock import locked
from fastat.training.loop import StepReport
from fastat.training.network import (
    CALLER,
    CHECKPOINT,
    CONFIG,
    ENVIRONMENT,
    METRICS,
    Network,
    OtherCodeError,
    Which,
    load_network,
    network_of_weights,
)
from fastat.training.record import Record, read_record, record_in, record_of
from fastat.training.run import Run
from fastat.training.saved import history_in
from fastat.training.train import train

__all__ = [
    "CALLER",
    "CHECKPOINT",
    "CONFIG",
    "ENVIRONMENT",
    "METRICS",
    "ConfigError",
    "Network",
    "OptimizerConfig",
    "OptimizerName",
    "OtherCodeError",
    "Record",
    "Run",
    "RunConfig",
    "ScheduleName",
    "StepReport",
    "Terminated",
    "ThreatConfig",
    "TrainConfig",
    "Which",
    "as_fields",
    "best_state",
    "check_config",
    "check_same_run",
    "choose_device",
    "config_from",
    "default_config",
    "describe_training",
    "has_events",
    "held",
    "history_in",
    "interrupts_deferred",
    "layout_of",
    "load_network",
    "locked",
    "monitors",
    "network_of_weights",
    "open_configured",
    "placed",
    "read_record",
    "record_in",
    "record_of",
    "train",
    "train_configured",
    "training_sets",
    "with_fields",
]
