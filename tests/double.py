"""Training in float64, where two ways of computing one thing agree to many digits.

In float32 they need not: rounding can decide the sign of a gradient near zero, or its direction close to a minimum, and
the attack then takes a different step. As a script: runs the command lines of fastat in a JSON list, in float64; also
under torchrun.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch


@contextmanager
def double() -> Iterator[None]:
    """Within the block networks are made with float64 weights and images are given to them in float64."""
    from fastat.data import Dataset  # every test starts by importing this file

    pixels, usual = Dataset.pixels, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(Dataset, "pixels", lambda *given: pixels(*given).double()):
            yield
    finally:
        torch.set_default_dtype(usual)


if __name__ == "__main__":
    from fastat.cli import main
    from fastat.support.distributed import torchrun_group

    with (
        double(),
        torchrun_group(torch.device("cpu")) as group,  # one for all runs: a second would reuse the first's rendezvous
        mock.patch("fastat.cli.train.torchrun_group", return_value=nullcontext(group)),
    ):
        for arguments in json.loads(sys.argv[1]):
            main(arguments)
