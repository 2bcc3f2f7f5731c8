"""Adversarial training by several processes: DistributedDataParallel, or FSDP2 with --fsdp.

torchrun --nproc-per-node 2 examples/distributed.py
torchrun --nproc-per-node 2 examples/distributed.py --fsdp

On CPUs the processes talk through gloo, on GPUs through NCCL.
"""

import os
import sys

import torch
import torch.distributed as dist
from digits import EPS, loader, network, robust_accuracy
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler

import fastat

cuda = torch.cuda.is_available()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
dist.init_process_group("nccl" if cuda else "gloo")
torch.manual_seed(0)  # the same weights everywhere

protocol = fastat.protocol("hr", eps=EPS, steps=5, alpha=0.05, r=0.1)
sharded = "--fsdp" in sys.argv[1:]
net = network().to(device)
model = fully_shard(net) if sharded else DistributedDataParallel(net)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

images = loader().dataset
sampler = DistributedSampler(images, drop_last=True)
step = 0
for epoch in range(3):
    sampler.set_epoch(epoch)
    for x, y, ids in (t for t in DataLoader(images, batch_size=32, sampler=sampler, drop_last=True)):
        x, y, ids = x.to(device), y.to(device), ids.to(device)
        with fastat.keep_gathered(model):  # FSDP2: gather the weights once, not twice in every step of the attack
            # HR and BAT are of the batch of all processes only if they are named; the other losses need no group
            loss = protocol(model, x, y, seed=step, sample_ids=ids, group=dist.group.WORLD)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        step += 1

if sharded:
    model.unshard()
found = robust_accuracy(net)  # every process the same
if dist.get_rank() == 0:
    print(f"{protocol} by {dist.get_world_size()} processes: {found}")
dist.barrier()
dist.destroy_process_group()
