"""CUDA graphs: attacks and training steps recorded once and replayed, and what is inspected before a replay."""

from fastat.graphs.capture import Made, Tensors, capturing, first_line
from fastat.graphs.inspection import CaptureError
from fastat.graphs.replay import Graph, can_record, check_graph, forget, possible, run

__all__ = [
    "CaptureError",
    "Graph",
    "Made",
    "Tensors",
    "can_record",
    "capturing",
    "check_graph",
    "first_line",
    "forget",
    "possible",
    "run",
]
