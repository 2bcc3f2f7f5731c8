"""Steps on batches that do not fit the device: gradients of parts of them are added up.

python examples/accumulation.py

The mean of the losses of a batch is that of its parts. HR and BAT look at a batch as a whole: cut into parts they are
those of each part, which is something else.
"""

import torch
from digits import EPS, loader, network, robust_accuracy

import fastat

PARTS = 4

protocol = fastat.protocol("pgd-at", eps=EPS, steps=5)
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

for epoch in range(2):
    for step, batch in enumerate(loader(batch_size=128)):
        for x, y, ids in zip(*(part.chunk(PARTS) for part in batch), strict=True):
            loss = protocol(model, x, y, seed=1000 * epoch + step, sample_ids=ids)
            (loss / PARTS).backward()
        optimizer.step()
        optimizer.zero_grad()
print(robust_accuracy(model))
