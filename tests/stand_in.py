"""A stand-in for CUDA graphs: a tape of the operations below autograd, which a replay runs again on the same memory.

As in a graph, numbers that Python computed while recording stay what they were, and tensors that were made outside are
read where they lie: what a replay must not depend on shows as a wrong result.
"""

from contextlib import nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fastat.graphs.capture import Recording
from fastat.models.access import fresh_casts


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, tensors_in(made)))
        return made

    @torch.no_grad()
    def play(self):
        for func, args, kwargs, places in self.operations:
            for place, new in zip(places, tensors_in(func(*args, **kwargs)), strict=True):
                if place.data_ptr() != new.data_ptr():  # else a view, or written in place
                    place.data.copy_(new)


class StandIn:
    """Counts what it records."""

    made = 0

    def __init__(self, device):
        pass

    def record(self, body, tensors):
        type(self).made += 1
        inputs = {name: t.clone() for name, t in tensors.items()}
        with fresh_casts():
            body(inputs)
        with Tape() as tape, fresh_casts():
            results, number = body(inputs)
        return Recording(tape.play, inputs, results, number)

    def turn(self):
        return nullcontext()


def tensors_in(made):
    return [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
