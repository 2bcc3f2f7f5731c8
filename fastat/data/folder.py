"""Images in folders: one folder per split, in it one per class."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastat.data.dataset import Dataset, Split, make_dataset

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}


def load_folder(path: Path, title: str) -> Split:
    """Images of ``path/train/<class>/*`` and ``path/test/<class>/*``; the class names in alphabetical order.

    All images must have one size. They stay grey if the first one is grey, else all are read as RGB.

    Raises:
        FileNotFoundError: a split is missing or has no image.
        ValueError: the two splits have different classes, or an image has another size; the message names the file.
    """
    classes = _classes(path / "train")
    if (found := _classes(path / "test")) != classes:
        different = ", ".join(sorted(set(classes) ^ set(found)))
        raise ValueError(f"{path / 'train'} and {path / 'test'} do not hold the same classes: {different}")
    first = _files(path / "train" / classes[0])[0]
    with Image.open(first) as image:
        mode, size = ("L" if image.mode in ("1", "L") else "RGB"), image.size
    return Split(*(_read_split(path / half, title, classes, mode, size) for half in ("train", "test")))


def _classes(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir())) if folder.is_dir() else ()
    if not names:
        raise FileNotFoundError(f"{folder} is missing or empty; put the images in {folder}/<class>/*.jpg (or png)")
    return names


def _files(folder: Path) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
    if not files:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))})")
    return files


def _read_split(folder: Path, title: str, classes: tuple[str, ...], mode: str, size: tuple[int, int]) -> Dataset:
    files = [(file, label) for label, name in enumerate(classes) for file in _files(folder / name)]

    def read(entry: tuple[Path, int]) -> Tensor:
        return _read_image(entry[0], mode, size)

    # Pillow lets go of the interpreter lock while it decodes
    with ThreadPoolExecutor() as pool:
        images = torch.stack(list(pool.map(read, files)))
    return make_dataset(title, images, torch.tensor([label for _, label in files]), classes)


def _read_image(file: Path, mode: str, size: tuple[int, int]) -> Tensor:
    """uint8 [C, H, W]"""
    with Image.open(file) as image:
        if image.size != size:
            wide, high = image.size
            raise ValueError(f"{file} has {wide}x{high} pixels, the first image {size[0]}x{size[1]}: make them equal")
        values = torch.from_numpy(np.array(image.convert(mode)))
    return values.unsqueeze(0) if mode == "L" else values.permute(2, 0, 1).contiguous()
