"""The names that the literature has for some pairs of an attack and an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastat.support import did_you_mean

ProtocolName = Literal[
    "standard", "pgd-at", "fgsm-at", "rs-fgsm", "n-fgsm", "gradalign", "free", "trades", "mart", "hr", "bat"
]
AttackName = Literal["none", "pgd", "pgd-kl", "fgsm", "rs-fgsm", "n-fgsm", "free"]
LossName = Literal["cross-entropy", "trades", "mart"]
ObjectiveName = Literal["mean", "holistic", "benign"]

PROTOCOLS: Mapping[ProtocolName, Mapping[str, str | float]] = {
    "standard": {"attack": "none"},
    "pgd-at": {},  # Madry et al. 2018
    "fgsm-at": {"attack": "fgsm"},  # Goodfellow, Shlens, Szegedy 2015
    "rs-fgsm": {"attack": "rs-fgsm"},  # Wong, Rice, Kolter 2020
    "n-fgsm": {"attack": "n-fgsm"},  # de Jorge et al. 2022
    "gradalign": {"attack": "fgsm", "grad_align": 0.2},  # Andriushchenko and Flammarion 2020
    "free": {"attack": "free"},  # Shafahi et al. 2019
    "trades": {"attack": "pgd-kl", "loss": "trades", "attack_mode": "eval"},  # Zhang et al. 2019
    "mart": {"loss": "mart", "attack_mode": "eval", "lr": 0.01},  # Wang et al. 2020
    "hr": {"objective": "holistic", "attack_mode": "eval"},  # Bennouna, Lucas, Van Parys 2023
    "bat": {"objective": "benign", "attack_mode": "eval"},  # Xu et al., benign adversarial training
}
"""What each name sets apart from PGD training on the cross-entropy. The rest is free: any attack goes with any loss of
the samples and any objective over them, so HR on N-FGSM is ``protocol="hr", attack="n-fgsm"``, BAT with TRADES
``protocol="bat", loss="trades", attack="pgd-kl"``.

The mode of the network under attack is that of the authors' code, where there is some: Madry et al. and those who train
in a single step attack in train mode, TRADES and MART in eval mode. MART's learning rate is that of
its authors too: its boosted cross-entropy has the larger gradients."""


def check_protocol_name(name: object) -> None:
    """Raises ValueError for a name that is not in the table."""
    if name not in PROTOCOLS:
        hint = did_you_mean(name, PROTOCOLS)
        raise ValueError(f"protocol must be one of {', '.join(PROTOCOLS)}, got {name!r}{hint}")


PROTOCOL_FIELDS = ("attack", "loss", "objective", "attack_mode", "grad_align")
"""The fields of a configuration that make a protocol; a learning rate that goes with one does not."""
