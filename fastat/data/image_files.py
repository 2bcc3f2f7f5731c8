"""Decoding of image files into tensors, in worker processes where there are many."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from torch.utils.data import Dataset as TorchDataset

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}
MANY = 500
"""From so many files on, starting worker processes and keeping what they decoded are worth it."""


class OtherSizeError(ValueError):
    """An image has another size than the first one; the message names the file."""


def image_files(folder: Path) -> list[Path]:
    """The images right in the folder, by name.

    Raises:
        FileNotFoundError: it holds none, or is missing.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    files = sorted(file for file in entries if file.suffix.lower() in SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return files


def read_image(file: Path, mode: str, size: tuple[int, int] | None = None) -> Tensor:
    """uint8 [C, H, W] of an image in Pillow's mode "L" or "RGB".

    Raises:
        FileNotFoundError: there is no such file.
        OtherSizeError: its (width, height) is not ``size``, where that is given.
        ValueError: it is not an image that Pillow can read; the message names the file.
    """
    try:
        with Image.open(file) as image:
            if size is not None and image.size != size:
                found, first = (f"{wide}x{high}" for wide, high in (image.size, size))
                raise OtherSizeError(f"{file} has {found} pixels, the first image {first}")
            values = torch.from_numpy(np.array(image.convert(mode)))
    except (FileNotFoundError, OtherSizeError):
        raise
    except Exception as error:  # of many kinds, a SyntaxError for one, and mostly without the name
        raise ValueError(f"{file} cannot be read as an image: {error}") from error
    return values.unsqueeze(0) if mode == "L" else values.permute(2, 0, 1).contiguous()


def read_images(files: Sequence[Path], mode: str) -> Tensor:
    """uint8 [N, C, H, W] of images of one size, decoded by all cores; if there are many, with a bar on a terminal.

    Raises:
        FileNotFoundError, OtherSizeError, ValueError: as for :func:`read_image`.
    """
    size = mode_and_size(files[0])[1]
    many = len(files) >= MANY
    parts = decoded(_OfOneSize(files, mode, size), MANY, cores() if many else 0)
    images = torch.empty(len(files), len(mode), size[1], size[0], dtype=torch.uint8)
    rows = range(0, len(files), MANY)
    for row, part in zip(_shown(rows, len(files)) if many else rows, parts, strict=True):
        images[row : row + len(part)] = part
    return images


def mode_and_size(file: Path) -> tuple[str, tuple[int, int]]:
    """Pillow's mode in which to read the image, "L" if it is grey and else "RGB", and its (width, height).

    Raises:
        FileNotFoundError, ValueError: as for :func:`read_image`.
    """
    try:
        with Image.open(file) as image:
            return ("L" if image.mode in ("1", "L") else "RGB"), image.size
    except FileNotFoundError:
        raise
    except Exception as error:
        raise ValueError(f"{file} cannot be read as an image: {error}") from error


def decoded(source: TorchDataset[Any], batch_size: int, workers: int, *, pin_memory: bool = False) -> Iterator[Any]:
    """Batches of the items of a dataset, in their order, from so many worker processes; in this one for 0.

    What an item raises is raised here as it is: from a worker, torch would raise a text with the whole traceback.
    """
    loader = DataLoader(
        _Caught(source),
        batch_size,
        num_workers=workers,
        collate_fn=_first_error_or_batch,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else the loader draws a seed for its workers from torch's global generator
    )
    for batch in loader:
        if isinstance(batch, Exception):
            raise batch
        yield batch


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _OfOneSize(TorchDataset[Tensor]):
    def __init__(self, files: Sequence[Path], mode: str, size: tuple[int, int]) -> None:
        self._files, self._mode, self._size = files, mode, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, position: int) -> Tensor:
        return read_image(self._files[position], self._mode, self._size)


class _Caught(TorchDataset[Any]):
    """The items of a dataset, or the errors that they raise."""

    def __init__(self, source: TorchDataset[Any]) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> Any:
        try:
            return self._source[position]
        except (OSError, ValueError) as error:
            return error


def _first_error_or_batch(items: list[Any]) -> Any:
    return next((item for item in items if isinstance(item, Exception)), None) or default_collate(items)


def _shown(rows: range, files: int) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    console, what = Console(stderr=True), f"decoding {files:,} images"
    if console.is_terminal:
        return iter(track(rows, what, console=console, transient=True))
    console.print(what)
    return iter(rows)
