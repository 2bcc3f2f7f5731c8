"""Adversarial training in a loop of one's own.

python examples/own_loop.py
"""

import torch
from digits import EPS, loader, network, robust_accuracy

import fastat

protocol = fastat.protocol("trades", eps=EPS, steps=5, beta=6)
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

step = 0
for epoch in range(3):
    for x, y, ids in loader():
        model.train()
        found = protocol.outcome(model, x, y, seed=step, sample_ids=ids)  # protocol(model, x, y) is its loss alone
        optimizer.zero_grad()
        found.loss.backward()
        optimizer.step()
        step += 1
    hits = (found.logits.argmax(1) == y).float().mean()
    print(f"{protocol}, epoch {epoch + 1}: loss {found.loss.item():.3f}, {hits:.0%} of the last batch right")
print(robust_accuracy(model))
