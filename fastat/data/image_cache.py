"""Decoded images, kept for the next time."""

from __future__ import annotations

import glob
import hashlib
import os
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from fastat.data.image_files import OtherSizeError, Size, are_many, read_images
from fastat.support.files.arrays import read_arrays, save_arrays

_FOLDER = "FASTAT_CACHE"
_A_DAY = 24 * 60 * 60


def read_images_once(folder: Path, files: Sequence[Path], mode: str, size: Size) -> Tensor:
    """What :func:`read_images` returns, or that a size is another one, kept in one file per folder if there are many.

    That is in ``~/.cache/fastat``, or the folder that the environment variable FASTAT_CACHE names; nothing is kept if
    FASTAT_CACHE is empty. Files that are new, changed, renamed or gone are seen by their names, sizes and times.

    Args:
        folder: what the file is named after; the images are in it.
        files: the images.
        mode: Pillow's, "L" or "RGB".
        size: (width, height) of each.

    Raises:
        OSError, OtherSizeError: as for :func:`read_images`.
        ValueError: likewise, or FASTAT_CACHE names a home folder that does not exist.
    """
    place = _cache_folder() if are_many(files, mode, size) else None
    if place is None:
        return read_images(files, mode, size)
    whole = os.fsencode(folder.resolve())
    kept = place / f"{folder.resolve().name[:40]}-{hashlib.sha256(whole).hexdigest()[:16]}.npz"
    key = _key(folder, files, mode)
    content = _read(kept, key)
    if "other" in content:
        raise OtherSizeError(str(content["other"]))
    images = content.get("images", np.empty(0))
    if images.dtype == np.uint8 and images.shape == (len(files), len(mode), size[1], size[0]):
        return torch.from_numpy(images)
    try:
        decoded = read_images(files, mode, size)
    except OtherSizeError as error:
        _keep(kept, key, other=np.array(str(error)))
        raise
    _keep(kept, key, images=decoded.numpy())
    return decoded


def _cache_folder() -> Path | None:
    """Where to keep images; None if nowhere."""
    named = os.environ.get(_FOLDER)
    if named is None:
        try:
            return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fastat"
        except RuntimeError:  # this user has no home folder
            return None
    try:
        return Path(named).expanduser() if named else None
    except RuntimeError as error:
        raise ValueError(f"{_FOLDER} must name a folder, or be empty to keep none, got {named!r}: {error}") from error


def _key(folder: Path, files: Sequence[Path], mode: str) -> str:
    """A digest of the names, sizes and times of the files, and of what decodes them."""
    state = hashlib.sha256(f"{mode} {PIL.__version__}".encode())
    for file in files:
        found = file.stat()
        state.update(os.fsencode(file.relative_to(folder)))
        # the time of the last change of any kind, which nobody can set: a copy may keep the other one
        state.update(f" {found.st_size} {found.st_ctime_ns}\n".encode())
    return state.hexdigest()


def _read(kept: Path, key: str) -> dict[str, np.ndarray]:
    """The arrays that are kept for this key; none if there are none, or they are damaged."""
    try:
        content = read_arrays(kept, ("key", "images", "other"))
    except (OSError, ValueError):  # missing or damaged: it is made anew
        return {}
    return content if str(content.get("key")) == key else {}


def _keep(kept: Path, key: str, **content: np.ndarray) -> None:
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_killed_processes_left(kept)
        save_arrays(kept, {"key": np.array(key), **content}, by_many=True)
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be kept in {kept}, so the next time takes as long ({error}): let the environment "
            f"variable {_FOLDER} name another folder, or be empty to keep none",
            stacklevel=2,
        )


def _remove_what_killed_processes_left(kept: Path) -> None:
    for temporary in kept.parent.glob(f".{glob.escape(kept.name)}.*"):
        with suppress(FileNotFoundError):  # another process has just given it its name
            if time.time() - temporary.stat().st_mtime > _A_DAY:
                temporary.unlink()
