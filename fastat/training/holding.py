"""A run's folder in the hands of one process, or of one group of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from fastat.support.distributed import Group, agreed, rank_of
from fastat.support.interrupt import termination_raises
from fastat.training.lock import locked
from fastat.training.mending import mend
from fastat.training.record import Record


@contextmanager
def held(folder: Path, record: Record, group: Group | None, device: torch.device, quiet: bool = True) -> Iterator[None]:
    """Within the block the folder is this process's, or this group's, whose first process holds it for all, for a run
    of this record; what is lost of it has been made again, as far as its checkpoint has it. The thread that holds it
    may take it again. In the process that holds it SIGTERM raises, so that it lets go.

    Raises:
        OSError: the folder cannot be made, or a file in it cannot be read or written.
        ValueError: another process holds it, it is of a run of other settings, or its checkpoint cannot be read; the
            message says what to do.
        Terminated: SIGTERM came within the block.
    """
    with ExitStack() as stack:
        failed: Exception | None = None
        if rank_of(group) == 0:
            try:
                stack.enter_context(termination_raises())
                if stack.enter_context(locked(folder)) and (made := mend(folder, record)) and not quiet:
                    print(f"{folder}: made again from the checkpoint: {', '.join(made)}", flush=True)
            except (OSError, ValueError) as error:
                failed = error
        if not agreed(failed is None, group, device):
            raise failed or ValueError(f"the first process cannot take {folder}: its message says why")
        yield
