"""SVHN, house numbers from street views (Netzer et al. 2011), in its cropped format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastat.data.dataset import Dataset, make_dataset
from fastat.data.mat import read_mat
from fastat.data.splits import Split


def load_svhn(root: Path) -> Split:
    """The 73,257 + 26,032 digits of 32x32 from ``root/train_32x32.mat`` and ``root/test_32x32.mat``.

    Raises:
        FileNotFoundError: a file is missing; the message says what to put where.
        ValueError: a file is not what it should be.
    """
    return Split(_half(root / "train_32x32.mat"), _half(root / "test_32x32.mat"))


def _half(file: Path) -> Dataset:
    if not file.exists():
        raise FileNotFoundError(f"SVHN: {file} is missing; put train_32x32.mat and test_32x32.mat of format 2 there")
    arrays = read_mat(file, ("X", "y"))
    if missing := [name for name in ("X", "y") if name not in arrays]:
        raise ValueError(f"{file} lacks {', '.join(missing)}: it should be a MATLAB file with X and y")
    images, labels = arrays["X"], arrays["y"]
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"{file}: X should be uint8 [32, 32, 3, N], got {images.dtype} {list(images.shape)}")
    if not bool(np.isin(labels, np.arange(1, 11)).all()):
        raise ValueError(f"{file}: y should be labels [N, 1], whole numbers from 1 to 10")
    stored = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
    digits = torch.from_numpy(labels.reshape(-1).astype(np.int64)) % 10  # the files call 0 the class 10
    try:
        return make_dataset("SVHN", stored, digits, tuple(str(digit) for digit in range(10)))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
