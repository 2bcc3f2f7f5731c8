"""Catastrophic overfitting that the data bring about: a feature per class makes single-step training collapse.

Ortiz-Jimenez, de Jorge, Sanyal, Bibi, Dokania, Frossard, Rogez, Torr, "Catastrophic overfitting can be induced with
discriminative non-robust features" (TMLR 2023). ``fastat theory catastrophic --preset quick`` shows it on digits.
"""

from fastat.theory.catastrophic.carriers import carriers, carriers_alone, inject, inject_projected, remove, span_basis
from fastat.theory.catastrophic.cell import Cell, collapse_epoch, run_cell, train_config
from fastat.theory.catastrophic.curvature import curvature
from fastat.theory.catastrophic.experiment import PRESETS, Settings, cost, run
from fastat.theory.catastrophic.low_pass import LowPass
from fastat.theory.catastrophic.outcome import CatastrophicResult
from fastat.theory.catastrophic.sweeping import Outcome, Sweep, run_cells, sweep
from fastat.theory.catastrophic.views import injected_dataset, injected_split, view_accuracies, views

__all__ = [
    "PRESETS",
    "CatastrophicResult",
    "Cell",
    "LowPass",
    "Outcome",
    "Settings",
    "Sweep",
    "carriers",
    "carriers_alone",
    "collapse_epoch",
    "cost",
    "curvature",
    "inject",
    "inject_projected",
    "injected_dataset",
    "injected_split",
    "remove",
    "run",
    "run_cell",
    "run_cells",
    "span_basis",
    "sweep",
    "train_config",
    "view_accuracies",
    "views",
]
