"""Image files in folders, read plainly, and how often they are decoded."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastat import data
from fastat.data import image_cache
from fastat.data.image_files import read_images

SIZE = (7, 5)


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def plain(files: list[Path]) -> torch.Tensor:
    images = [np.array(Image.open(file).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def loaded(folder: Path) -> torch.Tensor:
    split = data.load(f"folder:{folder}")
    return torch.cat([split.test.images, split.train.images])  # in the order of files_of


def decodings(monkeypatch) -> list[int]:
    """How many files each decoding was of, from now on."""
    seen: list[int] = []

    def counted(files, mode, size):
        seen.append(len(files))
        return read_images(files, mode, size)

    monkeypatch.setattr(image_cache, "read_images", counted)
    return seen
