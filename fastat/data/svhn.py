"""SVHN, house numbers from street views (Netzer et al. 2011), in its cropped format."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from fastat.data.dataset import Dataset, make_dataset
from fastat.data.splits import Split
from fastat.support.arrays import most_unpacked
from fastat.support.files import in_a_line

_NUMBERS = ("uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64", "single", "double")
"""Kinds of arrays that hold nothing else."""


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
    from scipy.io import loadmat, whosmat  # slow to import

    try:
        for name, shape, kind in whosmat(file):  # reads no content
            if name in ("X", "y") and (kind not in _NUMBERS or math.prod(shape) > most_unpacked(file)):
                raise ValueError(f"{name} claims to be {kind} {list(shape)}")
        content = loadmat(file, variable_names=["X", "y"])
        images, labels = content["X"], content["y"]
    except OSError as error:
        if error.filename is not None:  # of the system, which names the file
            raise
        raise _broken(file, error) from error
    except Exception as error:  # scipy raises many kinds for a broken file
        raise _broken(file, error) from error
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(f"{file}: X should be uint8 [32, 32, 3, N], got {images.dtype} {list(images.shape)}")
    if labels.dtype.kind not in "iuf":
        raise ValueError(f"{file}: y should be numbers [N, 1], got {labels.dtype} {list(labels.shape)}")
    stored = torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1)))
    digits = torch.from_numpy(labels.reshape(-1).astype(np.int64)) % 10  # the files call 0 the class 10
    try:
        return make_dataset("SVHN", stored, digits, tuple(str(digit) for digit in range(10)))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _broken(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file} is not a MATLAB file with X and y: {in_a_line(error)}")
