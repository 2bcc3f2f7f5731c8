"""Loads the compiled modules: ``_C`` always, ``_cuda`` if it was built and can be loaded."""

import importlib
import importlib.util

import torch  # (its libraries must be loaded before ours)

from fastat.kernels import _C  # type: ignore[attr-defined]


def _load_cuda() -> tuple[dict[str, str] | None, str]:
    """What ``_cuda`` was built for, or None and the reason why there is no CUDA code."""
    if importlib.util.find_spec("fastat.kernels._cuda") is None:
        return None, "fastat was built without CUDA code"
    try:
        module = importlib.import_module("fastat.kernels._cuda")
    except ImportError as error:  # another CUDA major, a library that is not there
        return None, f"fastat's CUDA module could not be loaded ({error})"
    return module.build_info(), ""


CUDA_BUILD, CUDA_MISSING = _load_cuda()

REBUILD_HINT = (
    "rebuild it where nvcc and a CUDA build of torch are found: "
    "in a clone of fastat, FASTAT_CUDA=1 pip install --no-build-isolation --force-reinstall --no-deps ."
)


def build_info() -> dict[str, object]:
    """How the compiled modules were built.

    Returns:
        A dict with the keys ``version`` (of fastat), ``torch`` (built with), ``cuda`` (toolkit version, None without
        CUDA code), ``archs`` (CUDA architectures, a list), ``compiler``, ``openmp`` (whether torch's threads, which
        the CPU kernels run on, are OpenMP's) and ``cpu`` (the instruction set chosen on this machine: baseline, avx2 or
        avx512).
    """
    info: dict[str, object] = dict(_C.build_info())
    info["openmp"] = torch.backends.openmp.is_available()
    info["cuda"] = CUDA_BUILD["cuda"] if CUDA_BUILD else None
    info["archs"] = CUDA_BUILD["archs"].split("_") if CUDA_BUILD else []
    return info
