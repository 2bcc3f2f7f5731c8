"""Decoding of image files into tensors, by processes where there are many.

Not by a DataLoader, whose workers hand over batches in shared memory: a container has little of it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff"}

Size = tuple[int, int]
"""(width, height)"""

_TASK_FILES, _TASK_BYTES = 100, 1 << 20
"""A process decodes so many files at once, of at most so many bytes of pixels or one."""
_FEW_TASKS = 4
"""For so few of these no process is started."""


class OtherSizeError(ValueError):
    """An image does not have the size that it should have; the message names the file."""


def image_files(folder: Path) -> list[Path]:
    """The images right in the folder, by name.

    Raises:
        FileNotFoundError: it holds none, or is missing.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    files = sorted((file for file in entries if file.suffix.lower() in SUFFIXES), key=lambda file: file.name)
    if not files:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return files


def read_image(file: Path, mode: str) -> Tensor:
    """uint8 [C, H, W] of an image in Pillow's mode "L" or "RGB".

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is not an image that Pillow can read; the message names the file.
    """
    return torch.from_numpy(_pixels(file, mode))


def read_images(files: Sequence[Path], mode: str, size: Size) -> Tensor:
    """uint8 [N, C, H, W] of images of this size, decoded by all cores, which a terminal shows if there are many.

    Raises:
        OSError, ValueError: as for :func:`read_image`; OSError also if a process is killed.
        OtherSizeError: one has another size.
    """
    images = np.empty((len(files), len(mode), size[1], size[0]), np.uint8)
    done = 0
    with closing(_parts(files, mode, size)) as parts:
        for part in parts:
            images[done : done + len(part)] = part
            done += len(part)
    return torch.from_numpy(images)


def are_many(files: Sequence[Path], mode: str, size: Size) -> bool:
    """Whether decoding them takes long enough to start processes, and to keep the result."""
    return len(_tasks(files, mode, size)) > _FEW_TASKS


def mode_and_size(file: Path) -> tuple[str, Size]:
    """Pillow's mode in which to read the image, "L" if it is grey and else "RGB", and its size.

    Raises:
        OSError, ValueError: as for :func:`read_image`.
    """
    try:
        with Image.open(file) as image:
            return ("L" if image.mode in ("1", "L") else "RGB"), image.size
    except Exception as error:
        raise _explained(file, error) from None


def cores() -> int:
    """The cores that this process may use; under torchrun its share of them."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return max(own // max(int(processes) if processes.isdecimal() else 1, 1), 1)


def _tasks(files: Sequence[Path], mode: str, size: Size) -> list[Sequence[Path]]:
    image_bytes = len(mode) * size[0] * size[1]
    count = min(max(_TASK_BYTES // image_bytes, 1), _TASK_FILES)
    return [files[first : first + count] for first in range(0, len(files), count)]


def _parts(files: Sequence[Path], mode: str, size: Size) -> Generator[np.ndarray]:
    """The images of the tasks, in their order."""
    read = partial(_read_some, mode=mode, size=size)
    tasks = _tasks(files, mode, size)
    if not are_many(files, mode, size):
        yield from map(read, tasks)
        return
    shown = _shown(len(files), len(tasks))
    # Forked processes need no import and no guard in the caller's script, and are safe here: they use neither torch nor
    # anything else that has threads. A daemon may have none.
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        yield from shown(map(read, tasks))
        return
    pool = ProcessPoolExecutor(min(cores(), len(tasks)), multiprocessing.get_context("fork"), _watch_parent)
    try:
        with _without_interrupts():
            parts = pool.map(read, tasks)
        yield from shown(parts)
    except BrokenProcessPool as error:
        raise OSError(f"a process that decoded images was killed, perhaps for want of memory: {error}") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Processes that are forked here do not see Ctrl-C, which goes to all of a terminal: this one ends them then."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _watch_parent() -> None:
    """Lets a process end with the one that started it: each holds the pipes of the others open, so none sees an end."""
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _shown(files: int, tasks: int) -> Callable[[Iterator[np.ndarray]], Iterable[np.ndarray]]:
    """A bar on a terminal, else a line."""
    from rich.console import Console
    from rich.progress import track

    what = f"decoding {files:,} images"
    if sys.stderr.isatty():
        return lambda parts: track(parts, what, tasks, console=Console(stderr=True), transient=True)
    print(what, file=sys.stderr)
    return lambda parts: parts


def _read_some(files: Sequence[Path], *, mode: str, size: Size) -> np.ndarray:
    return np.stack([_pixels(file, mode, size) for file in files])


def _pixels(file: Path, mode: str, size: Size | None = None) -> np.ndarray:
    """uint8 [C, H, W]"""
    try:
        with Image.open(file) as image:
            if size is not None and image.size != size:
                found, wanted = (f"{wide}x{high}" for wide, high in (image.size, size))
                raise OtherSizeError(f"{file} has {found} pixels, not {wanted}")
            values = np.array(image.convert(mode))
            return np.ascontiguousarray(values[None] if mode == "L" else values.transpose(2, 0, 1))
    except OtherSizeError:
        raise
    except Exception as error:
        raise _explained(file, error) from None


def _explained(file: Path, error: Exception) -> Exception:
    """What Pillow raises for a broken file is of many kinds, a SyntaxError for one, and mostly without the name."""
    if isinstance(error, OSError) and error.filename is not None:  # of the system, which names it
        return error
    return ValueError(f"{file} cannot be read as an image: {error}")
