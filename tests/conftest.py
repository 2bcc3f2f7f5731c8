"""What all tests share: the real data, if it is there, and small helpers as fixtures."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from double import double
from stand_in import StandIn

from fastat.graphs import replay as graphs


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder named by FASTAT_DATA; a test that needs it skips without it."""
    root = os.environ.get("FASTAT_DATA")
    if not root:
        pytest.skip("set FASTAT_DATA to a folder with MNIST/raw and cifar10-jpeg to run on real images")
    return Path(root)


@pytest.fixture(autouse=True, scope="session")
def _environment(tmp_path_factory) -> Iterator[None]:
    """Decoded images are kept where no other run of the tests finds them; output is as wide as usual, and plain."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("COLUMNS", "100")
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patched.delenv(name, raising=False)
        patched.setenv("FASTAT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def in_double() -> Iterator[None]:
    """Networks and images are in float64."""
    with double():
        yield


@pytest.fixture
def recorder(monkeypatch):
    """On the CPU work is recorded by the stand-in for CUDA graphs, which is returned."""
    monkeypatch.setattr(StandIn, "made", 0)
    monkeypatch.setattr(graphs, "RECORDERS", {"cpu": StandIn})
    return StandIn
