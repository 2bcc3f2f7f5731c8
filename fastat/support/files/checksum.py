"""Checksums inside zip archives, which checkpoints of torch and npz files of numpy are: the next load sees damage.

A checksum is the comment of its archive, its last bytes, which readers of zip archives skip. It covers all bytes before
it. It tells accidents, not attacks: whoever can write a file can write its checksum too.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import IO

_END, _END_BYTES = b"PK\x05\x06", 22
"""The last record of a zip archive without a comment; its last two bytes are the length of the comment."""
_MARK = b"fastat sha256 "
_HEX_BYTES = 2 * hashlib.sha256().digest_size
_COMMENT_BYTES = len(_MARK) + _HEX_BYTES
_CHUNK = 1 << 20


def add_checksum(stream: IO[bytes]) -> None:
    """Ends a zip archive that has just been written, without a comment, with its checksum.

    Args:
        stream: open for reading and writing, at its end.
    """
    stream.seek(-2, os.SEEK_END)
    stream.write(_COMMENT_BYTES.to_bytes(2, "little") + _MARK)
    content = stream.tell()
    stream.seek(0)
    digest = _hex_digest(stream, content)
    stream.seek(0, os.SEEK_END)
    stream.write(digest)


def verify_checksum(stream: IO[bytes], file: Path) -> None:
    """Raises ValueError if the file has a checksum, and it is not that of its content. One without any passes: other
    code writes none, and earlier versions did not.

    Args:
        stream: the file, open for reading; at its start afterwards.
        file: its name, for the message.
    """
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(size - _END_BYTES - _COMMENT_BYTES, 0))
    tail = stream.read()
    end = tail.rfind(_END)
    announced = end >= 0 and int.from_bytes(tail[end + 20 : end + 22], "little") == _COMMENT_BYTES
    stream.seek(0)
    if not announced and _MARK not in tail:  # one flipped bit leaves one of them
        return
    if tail[-_HEX_BYTES:] != _hex_digest(stream, size - _HEX_BYTES):
        raise ValueError(
            f"{file} is damaged: it does not have the content that was written, by its checksum. "
            "Bring back a copy of it, or delete it to have it made anew"
        )
    stream.seek(0)


def _hex_digest(stream: IO[bytes], size: int) -> bytes:
    """That of the next bytes of the stream, so many of them."""
    state = hashlib.sha256()
    while size > 0 and (chunk := stream.read(min(size, _CHUNK))):
        state.update(chunk)
        size -= len(chunk)
    return state.hexdigest().encode()
