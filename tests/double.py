"""Training in float64, where two ways of computing one thing agree to many digits.

In float32 they need not: a sign, or the direction of a divergence close to its minimum, can hang on the last bit of a
gradient, and an attack makes it a whole step. As a script this runs fastat's command lines in float64, under torchrun
too: a JSON list of them, with the arguments of each.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest import mock

import torch

from fastat.cli import main
from fastat.data import Dataset
from fastat.distributed import torchrun_group


@contextmanager
def double() -> Iterator[None]:
    """Within the block networks are made with float64 weights and images are given to them in float64."""
    pixels, usual = Dataset.pixels, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with mock.patch.object(Dataset, "pixels", lambda *given: pixels(*given).double()):
            yield
    finally:
        torch.set_default_dtype(usual)


if __name__ == "__main__":
    with (
        double(),
        torchrun_group(torch.device("cpu")) as group,  # of all of them: a second group would meet in the first's place
        mock.patch("fastat.cli.torchrun_group", return_value=nullcontext(group)),
    ):
        for arguments in json.loads(sys.argv[1]):
            main(arguments)
