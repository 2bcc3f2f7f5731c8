"""How fastat was built and what it can run on."""

import platform

import torch

from fastat.kernels._extension import CUDA_MISSING, build_info


def describe_environment() -> dict[str, str]:
    """Build information and the devices found, as text by name."""
    info = build_info()
    archs = info["archs"]
    assert isinstance(archs, list)
    devices = [f"CPU ({info['cpu']} kernels, {torch.get_num_threads()} threads)"]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            major, minor = torch.cuda.get_device_capability(i)
            devices.append(f"cuda:{i} {torch.cuda.get_device_name(i)} (architecture {major}.{minor})")
    return {
        "fastat": str(info["version"]),
        "python": platform.python_version(),
        "torch": f"{torch.__version__} (fastat built with {info['torch']})",
        "compiler": str(info["compiler"]),
        "openmp": "yes" if info["openmp"] else "no",
        "cuda": f"{info['cuda']} for architectures {', '.join(archs)}" if info["cuda"] else f"no ({CUDA_MISSING})",
        "devices": "; ".join(devices),
    }
