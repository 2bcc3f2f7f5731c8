"""Inputs of the attack losses, for the CPU and the CUDA tests."""

import torch


def logits_case(kind, rows, classes, dtype=torch.float32, seed=0, scale=3.0):
    """Logits, labels and the keyword arguments of this kind of loss, on the CPU."""
    g = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(rows, classes, generator=g, dtype=torch.float64)).to(dtype)
    y = torch.randint(classes, (rows,), generator=g)
    extra = {}
    if kind == "dlr_targeted":
        extra["targets"] = (y + 1 + torch.randint(classes - 1, (rows,), generator=g)) % classes
    if kind == "kl":
        extra["reference"] = (logits.double() + torch.randn(rows, classes, generator=g, dtype=torch.float64)).to(dtype)
    return logits, y, extra
