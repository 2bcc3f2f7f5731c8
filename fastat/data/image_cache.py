"""Decoded images, kept for the next time."""

from __future__ import annotations

import hashlib
import os
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from fastat.data.image_files import MANY, read_images
from fastat.support.files import replacing


def read_images_once(folder: Path, files: Sequence[Path], mode: str) -> Tensor:
    """What :func:`read_images` returns, kept in one file per folder if there are many.

    That is in ``~/.cache/fastat``, or the folder that the environment variable FASTAT_CACHE names; nothing is kept if
    FASTAT_CACHE is empty. Files that are new, changed, renamed or gone are seen by their names, sizes and times.

    Args:
        folder: what the file is named after; the images are in it.
        files: the images, of one size.
        mode: Pillow's, "L" or "RGB".

    Raises:
        FileNotFoundError, OtherSizeError, ValueError: as for :func:`read_images`.
    """
    place = _cache_folder()
    if place is None or len(files) < MANY:
        return read_images(files, mode)
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    kept, key = place / f"{folder.resolve().name}-{digest}.npz", _key(folder, files, mode)
    images = _read(kept, key, len(files))
    if images is None:
        images = read_images(files, mode)
        _keep(kept, key, images)
    return images


def _cache_folder() -> Path | None:
    named = os.environ.get("FASTAT_CACHE")
    if named is None:
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fastat"
    return Path(named).expanduser() if named else None


def _key(folder: Path, files: Sequence[Path], mode: str) -> str:
    """Stands for the files and for what decodes them."""
    state = hashlib.sha256(f"{mode} {PIL.__version__}".encode())
    for file in files:
        found = file.stat()
        state.update(f"\n{file.relative_to(folder)} {found.st_size} {found.st_mtime_ns}".encode())
    return state.hexdigest()


def _read(kept: Path, key: str, count: int) -> Tensor | None:
    """The images that are kept, or None; numpy checks the sum that a zip file has of its content."""
    try:
        with np.load(kept, allow_pickle=False) as content:
            if str(content["key"]) != key:
                return None
            images = content["images"]
    except (EOFError, KeyError, OSError, ValueError, zipfile.BadZipFile):
        return None
    fits = images.dtype == np.uint8 and images.ndim == 4 and len(images) == count
    return torch.from_numpy(images) if fits else None


def _keep(kept: Path, key: str, images: Tensor) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with replacing(kept, by_many=True) as stream:
            np.savez(stream, key=np.array(key), images=images.numpy())
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be kept in {kept}, so the next time takes as long ({error}): let the environment "
            f"variable FASTAT_CACHE name another folder, or be empty to keep none",
            stacklevel=2,
        )
