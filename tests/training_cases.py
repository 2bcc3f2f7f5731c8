"""Small trainings that several tests share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from fastat import protocols
from fastat.protocols import Protocol
from fastat.training import TrainConfig, default_config, with_fields

SMALL = {"epochs": 2, "attack_steps": 2, "batch_size": 32, "train_size": 96, "val_size": 16}
TINY = with_fields(TrainConfig(), **SMALL)


def config_of(protocol: str, **changes) -> TrainConfig:
    return default_config("digits", protocol, **{**SMALL, **changes})


def protocol_of(config: TrainConfig) -> Protocol:
    """What it descends."""
    return protocols.protocol_of(config.method, config.threat.threat_model)


def textbook_benign(config: TrainConfig, logits: Tensor, features: Tensor, y: Tensor) -> Tensor:
    """The loss and its discrimination term as they are defined, sample by sample."""
    losses = F.cross_entropy(logits, y, reduction="none")
    weights = torch.ones(len(y))
    for i, row in enumerate(logits.detach().softmax(1)):
        if row.argmax() != y[i]:
            weights[i] = torch.exp(-config.method.gamma * row[torch.arange(10) != y[i]].max())
    assert int((weights < 1).sum()) > 0
    h = features / features.norm(dim=1, keepdim=True)
    terms = []
    for i in range(len(y)):
        others = [k for k in range(len(y)) if k != i]
        positives = [j for j in others if y[j] == y[i]]
        total = torch.stack([(h[i] @ h[k] / config.method.tau).exp() for k in others]).sum()
        if positives:
            terms.append(torch.stack([total.log() - h[i] @ h[j] / config.method.tau for j in positives]).mean())
    return (weights * losses).sum() / weights.sum() + config.method.beta * torch.stack(terms).mean()
