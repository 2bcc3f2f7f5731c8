"""What can be chosen, and the trainings that follow from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from fastat import data
from fastat.protocols import PROTOCOLS, ProtocolName
from fastat.theory.memorization.ensemble import Recipe
from fastat.theory.memorization.summary import FULL
from fastat.training import ScheduleName, TrainConfig, check_config, default_config


@dataclass(frozen=True)
class Settings:
    """What memorization is estimated with, and what is trained."""

    data: tuple[str, ...] = ("digits",)
    """Datasets by their names, each a study of its own."""
    train_size: int | None = 500
    """Train on a random choice of so many images, the others join the test images; None: the dataset's own halves."""
    networks: int = 400
    """Networks on random subsets, which memorization is estimated with."""
    fraction: float = 0.7
    """Of the training samples in each subset."""
    subset_network: Literal["mlp", "cnn"] = "mlp"
    """These networks: an MLP of one hidden layer, or four convolutions with group norm."""
    subset_width: int = 256
    """Hidden units of the mlp, channels of the cnn's first convolution."""
    subset_epochs: int = 40
    """Their passes over the subset."""
    subset_batch_size: int = 64
    """Their images per step."""
    subset_lr: float = 0.3
    """Their learning rate at the start; half a cosine brings it to 0."""
    models_at_once: int = 20
    """Networks trained as one stack; a GPU likes more than a CPU's cache."""
    model: str = "mlp"
    """Network of the adversarial trainings, by its name in "fastat train"."""
    width: int | None = 256
    """Its width, where it has one; None for its own."""
    eps: tuple[float, ...] = (0.1, 0.15)
    """Radii of the adversarial trainings and of their attacks, l-infinity; each a study of its own."""
    epochs: int = 60
    """Of each adversarial training."""
    batch_size: int = 64
    """Images per step."""
    attack_steps: int = 5
    """Steps of the training attack."""
    lr: float | None = None
    """Peak of the learning rate, but MART's, which is that of its authors; None for the dataset's."""
    schedule: ScheduleName = "cyclic"
    """Of the learning rate."""
    removed: tuple[float, ...] = (0.25, 0.5, 1.0)
    """Parts of the atypical training samples that are removed, rising to 1."""
    protocols: tuple[ProtocolName, ...] = ("bat", "trades", "mart")
    """Compared with PGD-AT on all training samples."""
    measure_every: int = 5
    """Epochs between two measurements of PGD-AT on all training samples."""
    seeds: int = 5
    """Trainings of each kind, which differ in their seed."""
    seed: int = 0
    """Of the choice of the training images, of the subsets, and the first one of the trainings."""

    @property
    def recipe(self) -> Recipe:
        """How the networks on subsets are trained."""
        return Recipe(self.subset_epochs, self.subset_batch_size, self.subset_lr)

    def __post_init__(self) -> None:
        for name in ("data", "eps", "removed"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must be one or more values, all different, got {values}")
        for name in self.data:
            data.check_name(name)
        if min(self.removed) <= 0 or list(self.removed) != sorted(self.removed) or self.removed[-1] != 1:
            raise ValueError(f"removed must be fractions above 0 that rise to 1, got {self.removed}")
        known = set(PROTOCOLS) - {FULL}
        if not set(self.protocols) <= known or len(set(self.protocols)) < len(self.protocols):
            raise ValueError(f"protocols must be of {', '.join(sorted(known))}, all different, got {self.protocols}")
        if not 0 < self.fraction < 1:
            raise ValueError(f"fraction must be between 0 and 1, got {self.fraction}")
        for name, least in (("seeds", 2), ("networks", 2), ("measure_every", 1), ("models_at_once", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("subset_width", "subset_epochs", "subset_batch_size", "subset_lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        for config in configs(self):
            check_config(config)


def configs(settings: Settings) -> Iterator[TrainConfig]:
    """PGD-AT and the other protocols, for every dataset, eps and seed.

    All are attacked in eval mode, so that they differ in nothing but the protocol.
    """
    protocols: tuple[ProtocolName, ...] = (FULL, *settings.protocols)
    for name in settings.data:
        for eps in settings.eps:
            for protocol in protocols:
                own: dict[str, float] = {}
                if settings.lr is not None and "lr" not in PROTOCOLS[protocol]:
                    own = {"lr": settings.lr}
                for seed in range(settings.seed, settings.seed + settings.seeds):
                    yield default_config(
                        name,
                        protocol,
                        model=settings.model,
                        width=settings.width,
                        eps=eps,
                        epochs=settings.epochs,
                        batch_size=settings.batch_size,
                        attack_steps=settings.attack_steps,
                        attack_mode="eval",
                        schedule=settings.schedule,
                        seed=seed,
                        val_size=0,
                        select="last",
                        **own,
                    )


# quick: a part of digits, since of the dataset's own halves 56 training and 13 test images are atypical, on which
# accuracies say little; radii at which the network still fits its training samples.
# paper: scores by group-norm CNNs without augmentation, where the literature's are by ResNets with batch norm, which
# cannot be trained as one stack: other samples may be atypical.
PRESETS: dict[str, Settings] = {
    "quick": Settings(),
    "paper": Settings(
        data=("cifar100", "tiny-imagenet"),
        train_size=None,
        networks=1000,
        subset_network="cnn",
        subset_width=64,
        subset_epochs=30,
        subset_batch_size=128,
        subset_lr=0.03,
        models_at_once=50,
        model="preact_resnet18",
        width=None,
        eps=(8 / 255,),
        epochs=100,
        batch_size=128,
        attack_steps=10,
        lr=0.1,
        schedule="multistep",
        measure_every=10,
        seeds=3,
    ),
}
