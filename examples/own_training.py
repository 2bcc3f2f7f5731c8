"""From a module and a Dataset to a robust network and a report.

python examples/own_training.py
"""

import torch
from digits import EPS, loader, network

import fastat


class Pictures(torch.utils.data.Dataset):
    """Any Dataset of pairs (x, label), with transforms of its own: here pictures that are shifted by up to a pixel."""

    def __init__(self, train: bool) -> None:
        self.images, self.train = loader(train=train).dataset, train

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x, label, _ = self.images[index]
        shift = torch.randint(-1, 2, (2,)).tolist() if self.train else (0, 0)
        return torch.roll(x, shift, (1, 2)), int(label)


if __name__ == "__main__":  # worker processes read the Dataset
    trained = fastat.train(
        network(), Pictures(train=True), fastat.protocol("trades", eps=EPS, steps=4), test=Pictures(train=False),
        epochs=5, optimizer="adamw", schedule="one-cycle", lr=0.01, out="runs/own",
    )  # fmt: skip
    print(trained.report(size=200))
