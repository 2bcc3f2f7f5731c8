"""Image files for the tests of their decoding and of its cache."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastat.data import image_files


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twelve images of noise, as PNG and JPEG, grey and colour."""
    noise = np.random.default_rng(0)
    for half in ("train", "test"):
        for name in ("a", "b"):
            place = tmp_path / "pictures" / half / name
            place.mkdir(parents=True)
            for number, suffix in enumerate(("png", "jpg", "jpeg")):
                shape = (5, 7) if number == 2 else (5, 7, 3)
                Image.fromarray(noise.integers(0, 256, shape, dtype=np.uint8)).save(place / f"{number}.{suffix}")
    return tmp_path / "pictures"


@pytest.fixture
def many(monkeypatch, tmp_path) -> Path:
    """Nine files are many, so that processes decode and the images are kept in the folder returned."""
    monkeypatch.setattr(image_files, "_TASK_FILES", 2)
    monkeypatch.setenv("FASTAT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
