"""The options of the experiment, their ranges, the presets, and the trainings that follow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

from fastat.theory.catastrophic.cell import Cell, Method, Training, train_config


@dataclass(frozen=True)
class Settings(Training):
    """What is trained and looked at."""

    betas: tuple[float, ...] = (0.0, 0.1, 0.4)
    """Amplitudes of the injected feature in the grid, 0 among them."""
    epsilons: tuple[float, ...] = (0.1, 0.2)
    """Radii of the perturbation in the grid, linf."""
    beta: float = 0.1
    """Amplitude at which all that is not FGSM is compared with it; one of betas."""
    eps: float = 0.2
    """Radius at which all that is not FGSM is compared with it; one of epsilons."""
    methods: tuple[Method, ...] = ("rs-fgsm", "n-fgsm", "gradalign", "pgd")
    """Compared with FGSM at (beta, eps)."""
    projected: bool = True
    """Also train FGSM at (beta, eps) with the projected injection."""
    bandwidths: tuple[int, ...] = (4,)
    """Low passes in front of the network, compared with none at (beta, eps)."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of FGSM at (beta, eps) and (0, eps); everything else has the first one."""
    measure_every: int = 4
    """Epochs between two looks."""

    def __post_init__(self) -> None:
        for name in ("betas", "epsilons", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must hold different values, at least one, got {values}")
        if 0 not in self.betas or min(self.betas) < 0:
            raise ValueError(f"betas must be at least 0, and 0 among them, got {self.betas}")
        if self.beta not in self.betas or self.beta == 0:
            raise ValueError(f"beta must be one of betas, above 0, got {self.beta}")
        if self.eps not in self.epsilons or min(self.epsilons) <= 0:
            raise ValueError(f"eps must be one of epsilons, all above 0, got {self.eps} and {self.epsilons}")
        if "fgsm" in self.methods or len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods must differ from each other and from fgsm, got {self.methods}")
        if min(self.bandwidths, default=1) < 1:
            raise ValueError(f"bandwidths must be at least 1, got {self.bandwidths}")
        if self.measure_every < 1:
            raise ValueError(f"measure_every must be at least 1, got {self.measure_every}")
        for cell in cells(self):
            train_config(cell)


def cells(settings: Settings) -> list[Cell]:
    """The trainings: the grid of FGSM, more seeds of two of its points, and what is compared at one of these."""
    return list(dict.fromkeys(_cells(settings)))


def _cells(settings: Settings) -> Iterator[Cell]:
    shared = {field.name: getattr(settings, field.name) for field in fields(Training)}
    first = Cell(**shared, beta=settings.beta, eps=settings.eps, seed=settings.seeds[0])
    yield from (replace(first, beta=beta, eps=eps) for eps in settings.epsilons for beta in settings.betas)
    yield from (replace(first, beta=beta, seed=seed) for beta in (settings.beta, 0.0) for seed in settings.seeds)
    yield from (replace(first, method=method) for method in settings.methods)
    if settings.projected:
        yield replace(first, injection="projected")
    yield from (replace(first, bandwidth=bandwidth) for bandwidth in settings.bandwidths)


PRESETS: dict[str, Settings] = {
    "quick": Settings(),
    "paper": Settings(
        data="cifar10",
        model="preact_resnet18",
        width=None,
        betas=tuple(k / 255 for k in (0, 2, 4, 6, 8, 12, 16)),
        epsilons=tuple(k / 255 for k in (2, 4, 6, 8)),
        beta=8 / 255,
        eps=6 / 255,
        bandwidths=(8, 16, 24),
        epochs=30,
        batch_size=128,
        attack="pgd-50x10",
        test_size=500,  # 500 gradients each: more images, or more looks, would cost more than the training
        measure_every=2,
    ),
}
