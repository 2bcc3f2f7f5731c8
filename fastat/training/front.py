"""What comes before the network in a run and is not part of it: a fixed filter of the images, say."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class Front:
    """A module in front of every network of a run; None for nothing.

    Attributes:
        module: neither trained nor saved.
        seen: networks behind it: one that lasts keeps its CUDA graphs.
    """

    module: nn.Module | None = None
    seen: dict[nn.Module, nn.Module] = field(default_factory=dict)

    def before(self, model: nn.Module) -> nn.Module:
        """The model as the run sees it."""
        if self.module is None:
            return model
        if model not in self.seen:
            self.seen[model] = nn.Sequential(self.module, model)
        return self.seen[model]


def check_fixed(front: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Raises ValueError if the front would have something to learn, or changes when images pass it."""
    if any(True for _ in front.parameters()):
        raise ValueError(f"front must have no parameters: they would not be trained; got {front}")
    passed = copy.deepcopy(front).cpu().train()
    passed(torch.rand(2, *image_shape))
    for (name, before), after in zip(front.named_buffers(), passed.buffers(), strict=True):
        if not torch.equal(before.cpu(), after):
            raise ValueError(f"front must stay as it is, its buffer {name} changes in training; got {front}")
