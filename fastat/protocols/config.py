"""A training protocol as a configuration writes it down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastat.objectives import Order, Positives
from fastat.protocols.table import AttackName, LossName, ObjectiveName, ProtocolName


@dataclass(frozen=True)
class ProtocolConfig:
    """How a run trains: an attack, a loss of each sample, an objective of the batch, and what is added to them."""

    protocol: ProtocolName = "pgd-at"
    """Name that sets attack, objective or both; "fastat train NAME --help" shows what."""
    attack: AttackName = "pgd"
    """Attack of the training."""
    attack_steps: int = 10
    """Steps of the training attacks pgd and pgd-kl (which ascends TRADES' divergence); the others take one."""
    step_size: float | None = None
    """Step of the training attack, in the unit of eps; if not given 2.5 eps / steps, 1.25 eps for rs-fgsm, else eps."""
    attack_mode: Literal["eval", "train"] = "train"
    """Mode of the network under attack, as in the protocol's paper; in eval mode batch norm keeps its statistics clear
    of the attack's iterates. Attack free has no pass of its own, so no mode."""
    replays: int = 8
    """Attack free: steps on each batch in a row, each of which moves the weights and the perturbation."""
    loss: LossName = "cross-entropy"
    """Loss of each attacked image: its cross-entropy, or that of TRADES or MART with the clean image."""
    objective: ObjectiveName = "mean"
    """What is descended of the losses of a batch: their mean, the holistically robust one (HR), the benign (BAT)."""
    label_smoothing: float = 0.0
    """Share of the target of the cross-entropy (in TRADES of its first term) that is spread evenly over the classes.
    Attacks ascend the loss of the true labels."""
    trades_beta: float = 6.0
    """TRADES: weight of the divergence between clean and attacked predictions."""
    mart_lambda: float = 5.0
    """MART: weight of the divergence on images that are not predicted surely."""
    grad_align: float = 0.0
    """Weight of GradAlign, which keeps the network linear within eps; 0 leaves it out. Costs a second derivative."""
    awp: float = 0.0
    """Adversarial weight perturbation: the weights' relative size of a worst step (5e-3 in its paper); 0: none."""
    alpha: float = 0.05
    """HR: the fraction of the training data that may be wrong, in [0, 1)."""
    r: float = 0.1
    """HR: how far, in Kullback-Leibler divergence, the data may be from the distribution they were drawn from."""
    order: Order = "hd"
    """HR: hd guards against wrong data first, then against the divergence; hr the other way round."""
    gamma: float = 1.0
    """BAT: how much less a misclassified sample weighs: exp(-gamma * the probability of the wrong class)."""
    beta: float = 0.2
    """BAT: factor of the loss that draws the features of a class together."""
    tau: float = 0.1
    """BAT: temperature of that loss."""
    positives: Positives = "outside"
    """BAT: whether that loss averages a sample's positives outside or inside of the logarithm."""
