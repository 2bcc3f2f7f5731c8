"""Build information, and what a CUDA tensor gets without CUDA code."""

import re
import subprocess
import sys

import pytest
import torch

import fastat
from fastat.kernels import _extension, arguments, ops


def test_build_info_keys():
    info = fastat.build_info()
    assert set(info) >= {"version", "torch", "cuda", "archs", "compiler", "openmp"}
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", info["version"])
    assert info["torch"].split(".")[0] == torch.__version__.split(".")[0]
    assert (info["cuda"] is None) == (info["archs"] == [])


def test_info_command_prints_build_and_devices():
    text = subprocess.run([sys.executable, "-m", "fastat", "info"], capture_output=True, text=True, check=True).stdout
    assert f"fastat    {fastat.build_info()['version']}" in text
    assert "devices   CPU" in text


def test_a_cuda_tensor_without_cuda_code_says_how_to_rebuild(monkeypatch):
    monkeypatch.setattr(arguments, "CUDA_BUILD", None)
    monkeypatch.setattr(arguments, "CUDA_MISSING", "fastat was built without CUDA code")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(2, 3, device="cuda")
        with pytest.raises(RuntimeError, match=r"x_adv is on cuda.*built without CUDA code.*FASTAT_CUDA=1 pip"):
            ops.linf_step_(x, x, x, 0.1, 0.1)


def test_the_load_error_of_the_cuda_module_is_kept(monkeypatch):
    def broken(name):
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(_extension.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(_extension.importlib, "import_module", broken)
    build, reason = _extension._load_cuda()
    assert build is None
    assert "libcudart.so.13" in reason
