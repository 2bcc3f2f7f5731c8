"""The networks that end-to-end rows attack."""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bench.timing import rand, seeded
from fastat import models


class InPrecision(nn.Module):
    """A network in bfloat16 (autocast, channels last) that takes and returns float32: every attack can use it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x.contiguous(memory_format=torch.channels_last)).float()


def random_network(name: str, precision: str, device: torch.device) -> nn.Module:
    """A freshly initialized network for 3x32x32 images in eval mode, its batch statistics those of uniform noise.

    Sets torch's TF32 switches to what the precision asks for: "fp32 strict" turns them off, the others leave torch's
    default (convolutions in TF32, matrix products not).
    """
    torch.backends.cudnn.allow_tf32 = precision != "fp32 strict"
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    network = models.build(name, 10, 3).to(device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of what it sees
    with torch.no_grad():
        for i in range(2):
            network(rand((64, 3, 32, 32), device, 100 + i))
    return (InPrecision(network) if precision == "bf16" else network).eval()


def undefended_digits(device: torch.device) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network trained for seconds on scikit-learn's digits without any defence; 500 test images, labels."""
    bunch = load_digits()
    x = torch.tensor(bunch.images, dtype=torch.float32, device=device).unsqueeze(1) / 16
    y = torch.tensor(bunch.target, device=device)
    order = torch.randperm(len(x), generator=seeded(torch.device("cpu"), 0)).to(device)
    train, test = order[500:], order[:500]
    torch.manual_seed(0)
    network = models.build("small_cnn", 10, 1).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(4):
        for part in train[torch.randperm(len(train), device=device)].split(64):
            optimizer.zero_grad()
            F.cross_entropy(network(x[part]), y[part]).backward()
            optimizer.step()
    return network.eval(), x[test], y[test]
