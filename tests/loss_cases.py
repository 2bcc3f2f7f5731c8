"""Inputs of the attack losses, for the CPU and the CUDA tests."""

import torch

from fastat.kernels import ops


def logits_case(kind, rows, classes, dtype=torch.float32, seed=0, scale=3.0):
    """Logits, labels and the keyword arguments of this kind of loss, on the CPU."""
    g = torch.Generator().manual_seed(seed)
    logits = (scale * torch.randn(rows, classes, generator=g, dtype=torch.float64)).to(dtype)
    y = torch.randint(classes, (rows,), generator=g)
    if kind == "bce":
        y = torch.rand(rows, classes, generator=g, dtype=torch.float64)
        y = torch.where(y < 0.2, 0.25, (y < 0.6).double()).to(dtype)  # yes, no, and some between
    extra = {}
    if kind == "dlr_targeted":
        extra["targets"] = (y + 1 + torch.randint(classes - 1, (rows,), generator=g)) % classes
    if kind == "kl":
        extra["reference"] = (logits.double() + torch.randn(rows, classes, generator=g, dtype=torch.float64)).to(dtype)
    return logits, y, extra


def op_arguments(kind, logits, y, extra):
    """What the op itself takes, without its wrapper."""
    labels, reference = (None, y.to(logits.dtype)) if kind == "bce" else (y, None)
    if kind == "kl":
        labels, reference = None, extra["reference"]
    return logits, labels, ops.LOSS_KINDS.index(kind), extra.get("targets"), reference
