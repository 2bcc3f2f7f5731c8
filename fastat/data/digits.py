"""scikit-learn's digits: 1,797 real handwritten digits of 8x8 pixels, part of the package, no download."""

from __future__ import annotations

import torch
from torch import Tensor

from fastat.data.dataset import make_dataset
from fastat.data.splits import Split
from fastat.support.keyed import keyed_permutation

_TEST_SHARE = 0.2
_SPLIT_SEED = 20  # fixed: the split is part of the dataset's definition


def load_digits() -> Split:
    """The digits, split 80/20 within each class; the split is the same everywhere and always.

    The images have 17 grey levels, 0..16, stored as they are: the pixel value is level / 16.
    """
    from sklearn.datasets import load_digits as sklearn_digits  # slow to import

    bunch = sklearn_digits()
    images = torch.from_numpy(bunch.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    classes = tuple(str(digit) for digit in range(10))
    whole = make_dataset("digits", images, labels, classes, scale=16)
    test = _stratified(labels)
    return Split(whole.take((~test).nonzero().flatten()), whole.take(test.nonzero().flatten()))


def _stratified(labels: Tensor) -> Tensor:
    """True for the images of the test split."""
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        order = keyed_permutation(len(members), _SPLIT_SEED, int(label))
        test[members[order[: round(_TEST_SHARE * len(members))]]] = True
    return test
