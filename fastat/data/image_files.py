"""Decoding of image files into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}


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


def read_image(file: Path, mode: str) -> Tensor:
    """uint8 [C, H, W] of an image in Pillow's mode "L" or "RGB"."""
    with Image.open(file) as image:
        values = torch.from_numpy(np.array(image.convert(mode)))
    return values.unsqueeze(0) if mode == "L" else values.permute(2, 0, 1).contiguous()


def read_images(files: Sequence[Path], mode: str) -> Tensor:
    """uint8 [N, C, H, W] of images of one size.

    Raises:
        ValueError: an image has another size than the first one; the message names the file.
    """
    # Pillow lets go of the interpreter lock while it decodes
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(lambda file: read_image(file, mode), files))
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            high, wide = image.shape[1:]
            raise ValueError(
                f"{file} has {wide}x{high} pixels, the first image {images[0].shape[2]}x{images[0].shape[1]}"
            )
    return torch.stack(images)


def mode_and_size(file: Path) -> tuple[str, tuple[int, int]]:
    """Pillow's mode in which to read the image, "L" if it is grey and else "RGB", and its (width, height)."""
    with Image.open(file) as image:
        return ("L" if image.mode in ("1", "L") else "RGB"), image.size
