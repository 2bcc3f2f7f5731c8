"""Everything here needs a GPU and CUDA code in the build, and skips without."""

from pathlib import Path

import pytest
import torch

from fastat.kernels._extension import CUDA_MISSING


def pytest_collection_modifyitems(items):
    reason = "no CUDA device" if not torch.cuda.is_available() else CUDA_MISSING
    if reason:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _errors_are_this_tests():
    yield
    torch.cuda.synchronize()


@pytest.fixture
def exact_model():
    """Convolutions and products in float32, by the same kernels every time."""
    matmul = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
    torch.backends.cuda.matmul.allow_tf32 = matmul
