"""Random numbers that depend on a key and an id alone, for everything around the attacks: order, crops, flips, splits.

A counter-based hash instead of a generator with a state: the number of a sample in an epoch is the same whatever the
batch size, the device, the number of workers, or how often the run was stopped and resumed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))


def derive_seed(*key: int) -> int:
    """One seed in [0, 2^63) from several integers: seeds of different keys are unrelated.

    The finalizer of SplitMix64 (Steele, Lea and Flood 2014), folded over the key.
    """
    return _fold(key) >> 1


def keyed_hash(ids: Tensor, *key: int) -> Tensor:
    """63 random bits per id: int64 in [0, 2^63), of the shape and on the device of the int64 tensor ids."""
    bits = ids + _signed(_fold(key))
    bits = bits + _signed(_GAMMA)
    for shift, factor in _MIX:
        bits = (bits ^ _shift_right(bits, shift)) * _signed(factor)
    return _shift_right(bits ^ _shift_right(bits, 31), 1)


def keyed_permutation(n: int, *key: int) -> Tensor:
    """A random order of 0..n-1: int64 [n] on the CPU."""
    return torch.argsort(keyed_hash(torch.arange(n), *key), stable=True)


def _fold(key: tuple[int, ...]) -> int:
    state = len(key)
    for part in key:
        state = _splitmix((state + int(part)) & _WORD)  # numpy's integers have 64 bits
    return state


def _splitmix(word: int) -> int:
    word = (word + _GAMMA) & _WORD
    for shift, factor in _MIX:
        word = ((word ^ (word >> shift)) * factor) & _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift_right(bits: Tensor, shift: int) -> Tensor:
    # torch's shift of a negative int64 copies the sign: the mask makes it a shift of unsigned words
    return (bits >> shift) & ((1 << (64 - shift)) - 1)
