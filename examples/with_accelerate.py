"""Adversarial training with Hugging Face Accelerate.

accelerate launch examples/with_accelerate.py    (or python, for one process)
"""

import torch
from accelerate import Accelerator
from digits import EPS, loader, network, robust_accuracy

import fastat

accelerator = Accelerator()
protocol = fastat.protocol("mart", eps=EPS, steps=5)
model, optimizer, batches = accelerator.prepare(network(), None, loader())
optimizer = accelerator.prepare(torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9))

for _ in range(3):
    for x, y, ids in batches:
        with accelerator.accumulate(model), accelerator.autocast():
            accelerator.backward(protocol(model, x, y, sample_ids=ids))
            optimizer.step()
            optimizer.zero_grad()
accelerator.print(f"{protocol}: {robust_accuracy(accelerator.unwrap_model(model))}")
accelerator.end_training()
