"""The networks that end-to-end rows attack."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from bench.suites.inputs import rand, seeded
from fastat import models


@dataclass(frozen=True)
class Network:
    """A network to attack: its name in :func:`fastat.models.build`, the images it takes, and a radius.

    ``eps`` is chosen so that PGD-10 on random images changes some predictions and leaves others: only then can a
    weaker attack be told from a stronger one. ``residual`` scales what torchvision's residual blocks add at the start,
    without which the gradient of a deep random network explodes.
    """

    name: str
    size: int
    classes: int
    eps: float
    residual: float = 1.0


NETWORKS = {
    "small_cnn": Network("small_cnn", 32, 10, 0.5 / 255),
    "preact_resnet18": Network("preact_resnet18", 32, 10, 0.2 / 255),
    "wide_resnet_28_10": Network("wide_resnet_28_10", 32, 10, 0.15 / 255),
    "resnet50": Network("torchvision:resnet50", 224, 1000, 0.1 / 255, residual=0.2),
    "vit_b_16": Network("torchvision:vit_b_16", 224, 1000, 1.5 / 255),
}


class Autocast(nn.Module):
    """A network in bfloat16 that takes and returns float32: every attack can use it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.network(x).float()


def random_network(about: Network, precision: str, device: torch.device) -> nn.Module:
    """That network freshly initialized, in eval mode, its batch statistics those of uniform noise.

    Sets torch's TF32 switches to what the precision asks for: "fp32" is float32 with TF32 off; "tf32" float32 as
    PyTorch comes, convolutions in TF32 where there is a GPU; "bf16" bfloat16 by autocast.
    """
    torch.backends.cudnn.allow_tf32 = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    network = models.build(about.name, about.classes, 3).to(device)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain average of what it sees
        elif isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)  # a last layer that starts at zero has no gradient to follow
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.bn3.weight, about.residual)
    if any(isinstance(module, nn.BatchNorm2d) for module in network.modules()):
        with torch.no_grad():
            for i in range(2):
                network(rand((64, 3, about.size, about.size), device, 100 + i))
    return (Autocast(network) if precision == "bf16" else network).eval()


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
