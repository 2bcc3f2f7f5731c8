"""A folder that one process writes to at a time: a lock of the kernel on a file in it, which says who holds it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOCK = ".fastat-lock"
"""The file. The kernel frees its lock when the process ends, however that is; a file that stays is taken over."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_LARGEST = 4096  # bytes of the file that are read
_TRIES = 100  # for a folder that others remove: more often than they do


@dataclass
class _Hold:
    handle: int | None
    thread: int
    depth: int = 1


_held: dict[Path, _Hold] = {}
_guard = threading.Lock()


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Within the block no other process, and no other thread of this one, holds the folder. The thread that holds it
    may take it again; True is the value of the first time alone.

    The folder is made if missing, and is gone again if the block has put nothing there. One that nothing can be written
    to is not locked. Processes that this one forks do not hold the lock.

    Raises:
        OSError: the folder or the file in it cannot be made.
        ValueError: somebody else holds the folder, or may: a process of another machine was killed, or does so; the
            message names it and says what to do.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    hold, place = _taken(folder)
    try:
        yield hold.depth == 1
    finally:
        with _guard:
            if _held.get(place) is hold:  # not in a fork that leaves the block
                hold.depth -= 1
                if hold.depth == 0:
                    del _held[place]
                    _release(place / LOCK, hold.handle)
                    for empty in made:
                        with suppress(OSError):  # it is not empty
                            empty.rmdir()


def _taken(folder: Path) -> tuple[_Hold, Path]:
    with _guard:
        folder.mkdir(parents=True, exist_ok=True)
        place, thread = folder.resolve(), threading.get_ident()
        hold = _held.get(place)
        if hold is None:
            hold = _held[place] = _Hold(_handle(place), thread)
        elif hold.thread == thread:
            hold.depth += 1
        else:
            raise ValueError(_in_use(place, "another thread of this process"))
    return hold, place


def _handle(folder: Path) -> int | None:
    """Of the file, locked; None in a folder that nothing can be written to."""
    file, missing = folder / LOCK, 0
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)  # who has just let go of it may have removed it
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        except FileNotFoundError:
            missing += 1
            if missing == _TRIES:  # a folder in which no file can be made, /proc for one
                raise
            continue
        except OSError:
            if os.access(folder, os.W_OK):
                raise
            return None
        try:
            if _lock(handle, folder):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, folder: Path) -> bool:
    """Locks the file and writes the owner there; False where the file has been removed meanwhile."""
    file = folder / LOCK
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        raise ValueError(f"{file} is not a regular file: delete it, or choose another folder")
    by_kernel = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(_in_use(folder, _described(_owner(handle)))) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        by_kernel = False  # a file system that has none: the owner alone decides
    if not _is_named(handle, file):
        return False
    before = _owner(handle)
    if before and not _is_here(before):
        raise ValueError(
            f"{folder} is in use by {_described(before)}, or was when that ended: {socket.gethostname()} cannot see "
            f"whether it still runs. If it does not, delete {file}"
        )
    if before and not by_kernel and _runs(before):
        raise ValueError(_in_use(folder, _described(before)))
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(_this_process()).encode(), 0)
    except OSError:
        if not by_kernel:
            raise
        # a full disk: the lock holds without a name, and what this process may only read can be read
    return True


def _release(file: Path, handle: int | None) -> None:
    if handle is None:
        return
    with suppress(OSError):
        if _is_named(handle, file):
            file.unlink()  # while it is locked: who opens it now finds another file there, or none
    os.close(handle)


def _is_named(handle: int, file: Path) -> bool:
    """Whether the file of that name is the open one."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _in_use(folder: Path, owner: str) -> str:
    return f"{folder} is in use by {owner}: one at a time writes there. Wait for its end, or choose another folder"


def _this_process() -> dict[str, Any]:
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "started": _started(os.getpid())}


def _owner(handle: int) -> dict[str, Any]:
    """What the file says; empty where it says nothing that can be read."""
    try:
        found = json.loads(os.pread(handle, _LARGEST, 0))
        return found if isinstance(found["host"], str) and isinstance(found["pid"], int) else {}
    except (LookupError, TypeError, ValueError, RecursionError):
        return {}


def _described(owner: dict[str, Any]) -> str:
    if not owner:
        return "a process that has not said which"
    return f"process {owner['pid']} on {ascii(owner['host'])[1:-1]:.60}"


def _is_here(owner: dict[str, Any]) -> bool:
    """Whether it is, or was, a process of this machine, whatever a container or a restart calls that."""
    return owner["host"] == socket.gethostname() or (owner.get("boot") == _boot() != "")


def _runs(owner: dict[str, Any]) -> bool:
    """Whether this process of this machine is there: that one, not another that has its number now."""
    return bool(owner.get("boot") == _boot() and owner.get("started") == _started(owner["pid"]) is not None)


def _boot() -> str:
    """A name of the machine since it was started; empty where the kernel has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process was started, in the kernel's ticks; None where there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _let_go_after_fork() -> None:
    """A fork has copies of the handles: closed, they do not keep the lock when the process itself is gone."""
    global _guard
    _guard = threading.Lock()  # another thread may have held it
    for hold in _held.values():
        if hold.handle is not None:
            os.close(hold.handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_after_fork)
