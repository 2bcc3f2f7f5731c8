"""fastat: fast adversarial training for PyTorch. Every public name is here; its module is imported at its first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastat import attacks as attacks
    from fastat import data as data
    from fastat import evaluation as evaluation
    from fastat import graphs as graphs
    from fastat import models as models
    from fastat import objectives as objectives
    from fastat import protocols as protocols
    from fastat import report as report
    from fastat import theory as theory
    from fastat import training as training
    from fastat.attacks import Fastest, WeakAttackWarning, fastest
    from fastat.attacks.fgsm import fgsm
    from fastat.attacks.pgd import pgd
    from fastat.evaluation import Evaluation, evaluate
    from fastat.graphs import CaptureError
    from fastat.kernels import build_info, ops, reference
    from fastat.kernels.ops import attack_loss, best_, l1_step_, l2_step_, linf_step_, project_, random_start
    from fastat.models import Normalized, keep_gathered, with_features
    from fastat.objectives import (
        benign_loss,
        benign_weights,
        certificate,
        discrimination_loss,
        gradient_misalignment,
        holistic_cross_entropy,
        holistic_loss,
        holistic_weights,
        mart_loss,
        trades_loss,
    )
    from fastat.protocols import Outcome, Protocol, perturbed_weights, protocol
    from fastat.support.threat import ThreatModel
    from fastat.training import Network, StepReport, load_network
    from fastat.training.train import train

    __version__: str

_ROOMS = (
    "attacks", "data", "evaluation", "graphs", "models", "objectives", "protocols", "report", "theory", "training",
)  # fmt: skip

_NAMES = {
    "attacks": ("Fastest", "WeakAttackWarning", "fastest", "fgsm", "pgd"),
    "evaluation": ("Evaluation", "evaluate"),
    "graphs": ("CaptureError",),
    "kernels": ("build_info", "ops", "reference"),
    "kernels.ops": ("attack_loss", "best_", "l1_step_", "l2_step_", "linf_step_", "project_", "random_start"),
    "models": ("Normalized", "keep_gathered", "with_features"),
    "objectives": (
        "benign_loss", "benign_weights", "certificate", "discrimination_loss", "gradient_misalignment",
        "holistic_cross_entropy", "holistic_loss", "holistic_weights", "mart_loss", "trades_loss",
    ),
    "protocols": ("Outcome", "Protocol", "perturbed_weights", "protocol"),
    "support.threat": ("ThreatModel",),
    "training": ("Network", "StepReport", "load_network", "train"),
}  # fmt: skip
"""The public names by the module that has them."""

_MODULE_OF = {name: f"fastat.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "CaptureError",
    "Evaluation",
    "Fastest",
    "Network",
    "Normalized",
    "Outcome",
    "Protocol",
    "StepReport",
    "ThreatModel",
    "WeakAttackWarning",
    "__version__",
    "attack_loss",
    "benign_loss",
    "benign_weights",
    "best_",
    "build_info",
    "certificate",
    "discrimination_loss",
    "evaluate",
    "fastest",
    "fgsm",
    "gradient_misalignment",
    "holistic_cross_entropy",
    "holistic_loss",
    "holistic_weights",
    "keep_gathered",
    "l1_step_",
    "l2_step_",
    "linf_step_",
    "load_network",
    "mart_loss",
    "ops",
    "perturbed_weights",
    "pgd",
    "project_",
    "protocol",
    "random_start",
    "reference",
    "trades_loss",
    "train",
    "with_features",
]


if not TYPE_CHECKING:  # a type checker knows the names from above, and would take this for any name

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            value = str(import_module("fastat.kernels").build_info()["version"])
        elif name in _ROOMS:
            return import_module(f"fastat.{name}")  # which sets the attribute
        elif name in _MODULE_OF:
            import_module(_MODULE_OF[name].rpartition(".")[0])  # a package first: two threads wait in one order
            value = getattr(import_module(_MODULE_OF[name]), name)
        else:
            raise AttributeError(f"module 'fastat' has no attribute {name!r}")
        globals()[name] = value  # asked for once only
        return value


def __dir__() -> list[str]:
    hidden = {"Any", "TYPE_CHECKING", "import_module"}
    return sorted({*globals(), *__all__, *_ROOMS} - hidden)
