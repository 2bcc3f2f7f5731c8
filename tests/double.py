"""Training in float64, where two ways of computing one thing agree to many digits.

In float32 they need not: a sign, or the direction of a divergence close to its minimum, can hang on the last bit of a
gradient, and an attack makes it a whole step. As a script this is fastat's command line in float64.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch

from fastat.cli import main
from fastat.data import Dataset


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
    with double():
        main(sys.argv[1:])
