"""Builds fastat.kernels._C (always) and fastat.kernels._cuda (where nvcc and a CUDA build of torch are found).

FASTAT_CUDA=0|1           leave the CUDA module out, or insist on it
FASTAT_ARCHS="8.0 9.0"    CUDA architectures; "all" for every one a wheel should carry. Without it TORCH_CUDA_ARCH_LIST
                          counts, then the GPUs present, then 9.0.
FASTAT_SANITIZE=1         AddressSanitizer and UndefinedBehaviorSanitizer in the CPU module (make sanitize)
"""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pybind11
import torch
from setuptools import Extension, setup


def find_cuda_home() -> str | None:
    """The toolkit that has both nvcc and the headers: torch's own guess takes the folder above a wrapper of nvcc."""
    nvcc = shutil.which("nvcc")
    guesses = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), nvcc and Path(nvcc).resolve().parents[1]]
    for home in [Path(guess) for guess in (*guesses, "/usr/local/cuda") if guess]:
        if (home / "bin/nvcc").exists() and (home / "include/cuda_runtime.h").exists():
            return str(home)
    return None


CUDA_HOME = find_cuda_home()
if CUDA_HOME:
    os.environ["CUDA_HOME"] = CUDA_HOME
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402  (reads CUDA_HOME)

ROOT = Path(__file__).parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ALL_ARCHS = "8.0 8.6 8.9 9.0 10.0 12.0+PTX"


def nvcc_major() -> str:
    text = subprocess.run([f"{CUDA_HOME}/bin/nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+)", text)[1]


def cuda_wanted() -> bool:
    switch = os.environ.get("FASTAT_CUDA", "")
    if switch not in ("", "0", "1"):
        raise SystemExit(f"FASTAT_CUDA must be 0 or 1, got {switch!r}")
    found = torch.version.cuda is not None and CUDA_HOME is not None
    if found and nvcc_major() != torch.version.cuda.split(".")[0]:
        print(f"fastat: nvcc is of CUDA {nvcc_major()}, torch of {torch.version.cuda}: no CUDA code is built")
        found = False
    if switch == "1" and not found:
        raise SystemExit(
            f"FASTAT_CUDA=1 needs nvcc and a torch of the same CUDA major version; found CUDA_HOME={CUDA_HOME}, "
            f"torch {torch.__version__} with CUDA {torch.version.cuda}"
        )
    return found and switch != "0"


def cuda_archs() -> str:
    wanted = os.environ.get("FASTAT_ARCHS", "") or os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    wanted = " ".join(re.split(r"[\s,;]+", wanted.strip()))
    if wanted == "all":
        return ALL_ARCHS
    if not wanted and torch.cuda.is_available():
        present = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        wanted = " ".join(f"{major}.{minor}" for major, minor in sorted(present))
    return wanted or "9.0"


def defines(**values: str) -> list[str]:
    return [f"-D{name}={value}" for name, value in values.items()]


def extensions() -> list[Extension]:
    stable_abi = defines(TORCH_TARGET_VERSION="0x020a000000000000", USE_CUDA="1")
    # No contraction into fused multiply-adds: the linf step promises the bits of the plain expression. Without errno
    # and trapping semantics, which nothing here reads, square roots and selects vectorize.
    cxx = [
        "-std=c++20", "-O3", "-fopenmp-simd", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-Wall",
        "-Wextra", "-g0",
        f"-ffile-prefix-map={ROOT.resolve()}=.", *stable_abi,
    ]  # fmt: skip
    link: list[str] = []
    if os.environ.get("FASTAT_SANITIZE") == "1":
        sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-g"]
        cxx, link = [*cxx, *sanitize], [*link, *sanitize]
    common = {"include_dirs": [pybind11.get_include()], "extra_link_args": link}
    cpu = ["csrc/bindings.cpp", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc/cpu").glob("*.cpp"))]
    headers = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h*"))
    headers += sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.cuh"))
    modules = [
        CppExtension(
            "fastat.kernels._C",
            cpu,
            extra_compile_args={"cxx": [*cxx, *defines(FASTAT_VERSION=VERSION, FASTAT_TORCH=torch.__version__)]},
            depends=headers,
            **common,
        )
    ]
    if cuda_wanted():
        archs = cuda_archs()
        os.environ["TORCH_CUDA_ARCH_LIST"] = archs
        cuda = [*(ROOT / "csrc/cuda").glob("*.cpp"), *(ROOT / "csrc/cuda").glob("*.cu")]
        sources = sorted(str(p.relative_to(ROOT)) for p in cuda)
        nvcc = ["-std=c++20", "-O3", "-fmad=false", "--expt-relaxed-constexpr", "--extended-lambda", "-Xptxas=-v"]
        archs_define = defines(FASTAT_ARCHS=archs.replace(" ", "_"))
        modules.append(
            CUDAExtension(
                "fastat.kernels._cuda",
                sources,
                extra_compile_args={"cxx": [*cxx, *archs_define], "nvcc": nvcc},
                depends=headers,
                **common,
            )
        )
    return modules


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtension})
