"""Adversarial training in mixed precision: in bfloat16, and in float16 with a GradScaler.

python examples/mixed_precision.py
"""

import torch
from digits import EPS, loader, network, robust_accuracy

import fastat

device = "cuda" if torch.cuda.is_available() else "cpu"
protocol = fastat.protocol("pgd-at", eps=EPS, steps=5)

for dtype in (torch.bfloat16, torch.float16):
    model = network().to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    for _ in range(3):
        for x, y, ids in loader():
            with torch.autocast(device, dtype=dtype):
                loss = protocol(model, x.to(device), y.to(device), sample_ids=ids.to(device))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    print(f"{str(dtype).removeprefix('torch.')}: {robust_accuracy(model)}")
