"""The keyed random numbers of order, crops, flips and splits."""

import pytest
import torch

from fastat.support.keyed import derive_seed, keyed_hash, keyed_permutation


def splitmix64(state: int) -> int:
    """The published algorithm in unbounded integers (Steele, Lea and Flood 2014)."""
    word = (1 << 64) - 1
    z = (state + 0x9E3779B97F4A7C15) & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


def fold(*key: int) -> int:
    state = len(key)
    for part in key:
        state = splitmix64((state + part) % 2**64)
    return state


def test_splitmix64_known_answer():
    # first output of the reference generator for the state 0
    assert splitmix64(0) == 0xE220A8397B1DCDAF


@pytest.mark.parametrize("key", [(0,), (1, 2), (-5, 7, 2**63 - 1)])
def test_tensor_arithmetic_is_that_of_unbounded_integers(key):
    ids = torch.tensor([0, 1, -1, 12345, 2**62, -(2**63)])
    expected = [splitmix64((int(i) + fold(*key)) % 2**64) >> 1 for i in ids]
    assert keyed_hash(ids, *key).tolist() == expected


def test_derive_seed_is_a_valid_seed_and_depends_on_every_part_and_the_order():
    seeds = {derive_seed(*key) for key in [(0,), (1,), (0, 0), (0, 1), (1, 0), (1, 0, 0), (-1,)]}
    assert len(seeds) == 7
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_hash_is_uniform_bit_by_bit():
    bits = keyed_hash(torch.arange(20_000), 3)
    for bit in range(63):
        share = float(((bits >> bit) & 1).double().mean())
        assert abs(share - 0.5) < 0.02, bit


def test_permutation():
    order = keyed_permutation(1000, 0, 1)
    assert order.sort().values.equal(torch.arange(1000))
    assert order.equal(keyed_permutation(1000, 0, 1))
    assert not order.equal(keyed_permutation(1000, 0, 2))
    assert abs(float(order[:100].double().mean()) - 500) < 100
    assert keyed_permutation(0, 1).shape == (0,)
