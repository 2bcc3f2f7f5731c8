"""Images of one's own in one npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch

from fastat.data.dataset import Dataset, make_dataset
from fastat.data.splits import Split, channels_last


def load_tensors(file: Path) -> Split:
    """The arrays ``x_train, y_train, x_test, y_test`` of a file of :func:`numpy.savez`, and ``classes`` if it is there.

    Images are [N, C, H, W] of any number of channels, [N, H, W] if they are grey, or rows of features [N, F], which
    are kept as F channels of one pixel; uint8, of pixels from 0 to 255, or floating-point, finite, taken as they are.
    Labels are integers [N] from 0; classes are strings.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an array is missing or not what it should be; the message names it.
    """
    if not file.exists():
        raise FileNotFoundError(f"tensors: there is no file {file}; make it with numpy.savez")
    try:
        with np.load(file, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (EOFError, OSError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file} is not an npz file of plain arrays: {error}") from error
    if missing := [name for name in ("x_train", "y_train", "x_test", "y_test") if name not in arrays]:
        raise ValueError(f"{file} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}")
    for half in ("train", "test"):
        if not np.issubdtype(arrays[f"y_{half}"].dtype, np.integer):
            raise ValueError(f"{file}: y_{half} must be integers, got {arrays[f'y_{half}'].dtype}")
    if (train := arrays["x_train"].shape[1:]) != (test := arrays["x_test"].shape[1:]):
        raise ValueError(f"{file}: x_train and x_test must have images of one shape, got {train} and {test}")
    most = max(int(arrays[name].max(initial=0)) for name in ("y_train", "y_test"))
    classes = tuple(str(name) for name in arrays.get("classes", range(most + 1)))
    return Split(_half(file, arrays, "train", classes), _half(file, arrays, "test", classes))


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
