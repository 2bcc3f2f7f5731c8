"""The boundary to C++ and CUDA: the compiled ops, what checks their arguments, and the same in plain PyTorch."""

from fastat.kernels import arguments, objective_ops, ops, reference, sizes
from fastat.kernels._extension import CUDA_BUILD, CUDA_MISSING, REBUILD_HINT, build_info
from fastat.kernels.environment import describe_environment

__all__ = [
    "CUDA_BUILD",
    "CUDA_MISSING",
    "REBUILD_HINT",
    "arguments",
    "build_info",
    "describe_environment",
    "objective_ops",
    "ops",
    "reference",
    "sizes",
]
