"""Images of one's own in one npz file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from fastat.data.dataset import Dataset, make_dataset, numbered_classes
from fastat.data.splits import Split, channels_last
from fastat.support.files.arrays import read_arrays

_NEEDED = ("x_train", "y_train", "x_test", "y_test")


def load_tensors(file: Path) -> Split:
    """The arrays ``x_train, y_train, x_test, y_test`` of a file of :func:`numpy.savez`, and ``classes`` if it is there.

    Images are [N, C, H, W] of any number of channels, [N, H, W] if they are grey, or rows of features [N, F], which
    are kept as F channels of one pixel; uint8, of pixels from 0 to 255, or floating-point, finite, taken as they are.
    Labels are integers [N] from 0; classes are strings [C], by default the numbers up to the largest label, which must
    then be below the number of samples or below 65,536; labels that count from 1 are warned of. The arrays may take
    1 GiB in memory, or a hundred times the size of the file if that is more.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an array is missing or not what it should be; the message names it.
    """
    if not file.exists():
        raise FileNotFoundError(f"tensors: there is no file {file}; make it with numpy.savez")
    arrays = read_arrays(file, (*_NEEDED, "classes"))
    if missing := [name for name in _NEEDED if name not in arrays]:
        raise ValueError(f"{file} lacks {', '.join(missing)}: save all of {', '.join(_NEEDED)} with numpy.savez")
    for half in ("train", "test"):
        if not np.issubdtype(arrays[f"y_{half}"].dtype, np.integer):
            raise ValueError(f"{file}: y_{half} must be integers, got {arrays[f'y_{half}'].dtype}")
    if (train := arrays["x_train"].shape[1:]) != (test := arrays["x_test"].shape[1:]):
        raise ValueError(f"{file}: x_train and x_test must have images of one shape, got {train} and {test}")
    classes = _class_names(file, arrays)
    return Split(_half(file, arrays, "train", classes), _half(file, arrays, "test", classes))


def _class_names(file: Path, arrays: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Those in the file, or the numbers up to the largest label."""
    if "classes" in arrays:
        if arrays["classes"].ndim != 1:
            raise ValueError(f"{file}: classes must be names [C], got {list(arrays['classes'].shape)}")
        return tuple(str(name) for name in arrays["classes"])
    halves = (arrays["y_train"], arrays["y_test"])
    if any(labels.ndim != 1 or labels.size == 0 for labels in halves):
        raise ValueError(f"{file}: y_train and y_test must be integers [N], N >= 1")
    if any(int(labels.max()) >= 1 << 63 for labels in halves):
        raise ValueError(f"{file}: labels must be below 2^63")
    return numbered_classes(torch.cat([torch.from_numpy(labels.astype(np.int64)) for labels in halves]), str(file))


def _half(file: Path, arrays: dict[str, np.ndarray], half: str, classes: tuple[str, ...]) -> Dataset:
    images, labels = arrays[f"x_{half}"], arrays[f"y_{half}"]
    if images.ndim == 2:
        images = images[:, :, None, None]
    elif images.ndim == 3:
        images = images[:, None]
    elif channels_last(images.shape):
        raise ValueError(
            f"{file}: x_{half} {list(images.shape)} seems to have its channels last: save x.transpose(0, 3, 1, 2)"
        )
    if np.issubdtype(images.dtype, np.floating):
        images = images.astype(np.float32)
    try:
        pixels, integers = torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))
        return make_dataset(file.stem, pixels, integers, classes, 1 if pixels.is_floating_point() else 255)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: x_{half}, y_{half}: {error}") from error
