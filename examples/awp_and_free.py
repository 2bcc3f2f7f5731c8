"""What is part of the optimizer's step: adversarial weight perturbation, and "free" adversarial training.

python examples/awp_and_free.py
"""

import torch
from digits import EPS, loader, network, robust_accuracy

import fastat


def train(protocol: fastat.Protocol, epochs: int) -> torch.nn.Module:
    """Trains a network; the block holds the backward pass and the step of the optimizer."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    free = protocol.attack.kind == "free"
    delta = torch.zeros(64, 1, 8, 8) if free else None  # carried on from step to step
    for _ in range(epochs):
        for x, y, _ in loader():
            for _ in range(protocol.attack.replays if free else 1):
                with protocol.stepping(model, x, y, delta=delta) as found:
                    found.loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
    return model


for protocol, epochs in (
    (fastat.protocol("trades", eps=EPS, steps=5, awp=0.005), 4),
    (fastat.protocol("free", eps=EPS, replays=4), 3),
):
    print(f"{protocol}: {robust_accuracy(train(protocol, epochs))}")
