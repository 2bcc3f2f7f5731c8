"""Mutations of a file: bytes, numbers, parts of other files, and members of a zip archive whose sums stay right."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Sequence

_TOKENS = (
    b"1e400", b"-1", b"NaN", b"null", b"[]", b"{}", b'"x"', b"[" * 2000, b"9" * 400, b'"\\ud800"', b"true", b"0",
    b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\xff\xff\xff\x7f", b"\x00" * 8, b"\x7f", b"bytearray\n",
)  # fmt: skip


def mutated(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    """The content with one to six changes."""
    if content.startswith(b"PK\x03\x04") and draw.random() < 0.7:
        return _with_changed_member(content, others, draw)
    return _changed(content, others, draw)


def _changed(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    made = bytearray(content)
    for _ in range(draw.randint(1, 6)):
        if not made:
            break
        # the head and the tail of a file say more than its middle
        end = len(made)
        at = draw.choice((draw.randrange(min(end, 300)), draw.randrange(end), end - 1 - draw.randrange(min(end, 300))))
        size = draw.choice((1, 1, 2, 4, 8, draw.randint(1, 64)))
        change = draw.randrange(7)
        if change == 0:
            made[at] ^= 1 << draw.randrange(8)
        elif change == 1:
            made[at : at + size] = draw.randbytes(size)
        elif change == 2:
            del made[at : at + size]
        elif change == 3:
            made[at:at] = made[at : at + size] * draw.randint(1, 3)
        elif change == 4:
            made[at : at + draw.choice((0, size))] = draw.choice(_TOKENS)
        elif change == 5:
            other = draw.choice(others)
            start = draw.randrange(max(len(other), 1))
            made[at : at + size] = other[start : start + size]
        elif draw.random() < 0.3:
            del made[at:]
    return bytes(made)


def _with_changed_member(content: bytes, others: Sequence[bytes], draw: random.Random) -> bytes:
    made, old = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    names = old.namelist()
    chosen = draw.choice(names)
    method = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(made, "w", method) as new:
        for name in names:
            part = old.read(name)
            new.writestr(name, _changed(part, [old.read(other) for other in names], draw) if name == chosen else part)
    return made.getvalue()
