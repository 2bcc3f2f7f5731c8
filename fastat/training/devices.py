"""Where a network runs, and how its tensors lie there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from fastat.kernels import CUDA_BUILD, CUDA_MISSING, REBUILD_HINT
from fastat.support.distributed import Group, local_rank
from fastat.training.config import ConfigError


@dataclass(frozen=True)
class Place:
    """Where a step runs.

    Attributes:
        device: of all tensors.
        group: the processes that share every batch; None for this one alone.
        layout: of images and weights in memory.
        bf16: whether the network runs under autocast.
    """

    device: torch.device
    group: Group | None
    layout: torch.memory_format
    bf16: bool


def choose_device(device: torch.device | str | None) -> torch.device:
    """The device of that name; for None the GPU if there is one that fastat has kernels for, else the CPU.

    "cuda" is, under torchrun, the GPU with the number of the process on its machine.

    Raises:
        ValueError: a GPU is asked for and there is none, or fastat was built without CUDA code.
    """
    found = torch.cuda.is_available()
    try:
        chosen = torch.device(device if device is not None else "cuda" if found and CUDA_BUILD else "cpu")
    except RuntimeError as error:
        raise ConfigError("device", f"device must be cpu, cuda or cuda:NUMBER, got {device!r}") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError("device", f"device must be cpu, cuda or cuda:NUMBER, got {device!r}")
    if chosen.type == "cuda" and not found:
        raise ConfigError("device", f"device {str(chosen)!r}: torch finds no CUDA device")
    if chosen.type == "cuda" and CUDA_BUILD is None:
        raise ConfigError("device", f"device {str(chosen)!r}: {CUDA_MISSING}; {REBUILD_HINT}")
    return torch.device("cuda", local_rank()) if chosen == torch.device("cuda") else chosen


def placed(model: nn.Module, layout: torch.memory_format, device: torch.device) -> nn.Module:
    """The model on the device, its weights of four dimensions in that layout: torch refuses to lay out others so."""
    model = model.to(device)
    if layout != torch.contiguous_format:
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.to(memory_format=layout)
    return model


def layout_of(channels_last: Literal["auto", "on", "off"], device: torch.device) -> torch.memory_format:
    """How images and weights are laid out; "auto" puts the channels last on a GPU."""
    last = channels_last == "on" or (channels_last == "auto" and device.type == "cuda")
    return torch.channels_last if last else torch.contiguous_format


def uses_bf16(precision: Literal["auto", "fp32", "bf16"], device: torch.device) -> bool:
    """Whether the network runs under autocast; "auto" does on a GPU that has the format."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return precision == "bf16"
