"""Adversarial training as a LightningModule.

python examples/with_lightning.py
"""

import lightning
import torch
from digits import EPS, loader, network
from torch import Tensor

import fastat


class Robust(lightning.LightningModule):
    """A network and the protocol it is trained by."""

    def __init__(self, net: torch.nn.Module, protocol: fastat.Protocol) -> None:
        super().__init__()
        self.net, self.protocol = net, protocol

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        x, y, ids = batch
        return self.protocol(self.net, x, y, seed=self.global_step, sample_ids=ids)

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        x, y, _ids = batch
        x_adv = fastat.pgd(self.net, x, y, EPS, steps=20, seed=0)
        self.log("robust accuracy", (self.net(x_adv).argmax(1) == y).float().mean(), prog_bar=True, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


if __name__ == "__main__":
    protocol = fastat.protocol("pgd-at", eps=EPS, steps=5)
    trainer = lightning.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, num_sanity_val_steps=0)
    trainer.fit(Robust(network(), protocol), loader(), loader(batch_size=359, train=False))
    print(f"{protocol}: {float(trainer.callback_metrics['robust accuracy']):.1%} under PGD-20")
