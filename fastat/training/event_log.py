"""Curves for TensorBoard, beside metrics.jsonl."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PLACE = "tensorboard"


def has_events(folder: Path) -> bool:
    """Whether the latest event file of a run's folder is there and ends with a whole record."""
    files = sorted((folder / _PLACE).glob("events*"))
    if not files:
        return False
    content, end = files[-1].read_bytes(), 0
    while end + 12 <= len(content):  # a record: the length of its data, a checksum of that, the data, their checksum
        end += 16 + struct.unpack_from("<Q", content, end)[0]
    return 0 < end == len(content)


class EventLog:
    """Writes a run's epochs to the folder "tensorboard" within its own.

    Args:
        folder: the run's folder.
        history: the epochs that are finished; they are written again, and hide what an earlier process wrote.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, history: Sequence[Mapping[str, Any]]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("needs tensorboard: pip install 'fastat[tensorboard]'") from error
        self._writer = SummaryWriter(str(folder / _PLACE), purge_step=1)
        for row in history:
            self.write(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """One epoch, a line of metrics.jsonl."""
        numbers = {"lr": row["lr"], "images_per_second": row["images_per_second"]}
        numbers |= {
            f"{part}/{name}": value for part in ("train", "val", "measured") for name, value in row[part].items()
        }
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, row["epoch"])
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        self._writer.close()
