"""One attack per file; each is a function ``(model, x, y, eps, ...) -> x_adv`` that leaves the model as found."""

from fastat.attacks.fgsm import fgsm
from fastat.attacks.pgd import pgd

__all__ = ["fgsm", "pgd"]
