"""The attack that a protocol trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastat.attacks import fgsm, pgd
from fastat.graphs import Graph
from fastat.kernels.arguments import check_number
from fastat.kernels.ops import STEPS, random_start
from fastat.models import Model, in_eval_mode
from fastat.protocols.checks import at_least_1, one_of
from fastat.protocols.table import AttackName
from fastat.support.distributed import own_ids
from fastat.support.threat import Bounds, Norm, as_float, check_bounds, check_norm

AttackFunction = Callable[[Model, Tensor, Tensor], Tensor]
"""An attack of one's own: ``(model, x, y) -> x_adv``, which may train on labels of any kind."""

_TRADES_NOISE = 1e-3  # of the width of the box; the authors start from normal noise of this size, here it is uniform
OPTIONS: Mapping[AttackName, tuple[str, ...]] = {
    "none": (),
    "pgd": ("steps", "step_size", "mode"),
    "pgd-kl": ("steps", "step_size", "mode"),
    "fgsm": ("step_size", "mode"),
    "rs-fgsm": ("step_size", "mode"),
    "n-fgsm": ("step_size", "mode"),
    "free": ("step_size", "replays"),
}
"""The fields that each kind of attack uses beside its threat model."""

# noise as a multiple of eps, step as a multiple of eps, whether the result is clipped to the ball
_SINGLE_STEP: Mapping[str, tuple[float, float, bool]] = {
    "fgsm": (0.0, 1.0, True),
    "rs-fgsm": (1.0, 1.25, True),
    "n-fgsm": (2.0, 1.0, False),
}


@dataclass(frozen=True)
class Attack:
    """An attack to train on, which makes a batch adversarial: ``attack(model, x, y)``.

    Attributes:
        kind: "pgd"; "pgd-kl", which ascends TRADES' divergence from the prediction on x; the single steps "fgsm",
            "rs-fgsm" and "n-fgsm"; "none"; or "free" (Shafahi et al. 2019), whose perturbation is moved by the
            backward pass of the training itself (:meth:`fastat.Protocol.stepping`).
        eps: radius of the ball, in the units of the bounds.
        norm: "linf", "l2" or "l1".
        bounds: smallest and largest valid input; None for no box.
        steps: of "pgd" and "pgd-kl".
        step_size: in the unit of eps. None for that of the papers: 2.5 eps / steps (in TRADES and MART too, whose
            authors take 0.007 for eps 0.031 and ten steps), 1.25 eps for rs-fgsm, else eps.
        mode: "eval" puts the network in eval mode for the attack, which keeps batch norm's statistics clear of its
            iterates; "train" leaves it in the mode it is in.
        replays: of "free": steps on each batch in a row.

    Raises:
        TypeError, ValueError: a value out of its range.
    """

    kind: AttackName = "pgd"
    _: KW_ONLY
    eps: float
    norm: Norm = "linf"
    bounds: Bounds = (0.0, 1.0)
    steps: int = 10
    step_size: float | None = None
    mode: Literal["eval", "train"] = "train"
    replays: int = 8

    def __post_init__(self) -> None:
        one_of(self.kind, "attack", get_args(AttackName))
        one_of(self.mode, "mode", ("eval", "train"))
        check_norm(self.norm)
        check_bounds(self.bounds)
        check_number(self.eps, "eps")
        at_least_1(self.steps, "steps")
        at_least_1(self.replays, "replays")
        for name, plain in (("eps", float), ("steps", int), ("replays", int)):  # numpy's numbers are none of JSON's
            object.__setattr__(self, name, plain(getattr(self, name)))
        if self.bounds is not None:
            lower, upper = self.bounds
            found = tuple(None if end is None else as_float(end) for end in (lower, upper))
            object.__setattr__(self, "bounds", found)
        if self.step_size is not None:
            object.__setattr__(self, "step_size", check_number(self.step_size, "step_size", above=True))

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        seed: int | Tensor | None = None,
        sample_ids: Tensor | None = None,
        graph: Graph = False,
        validate: bool = True,
    ) -> Tensor:
        """Adversarial examples of a batch; the model, in the mode it had, is left as found.

        Args:
            model: any module or function that :func:`fastat.pgd` takes.
            x: ``[B, ...]`` within the bounds.
            y: integer labels ``[B]``.
            seed: of the random start; None to draw one from torch's CPU generator.
            sample_ids: int64 ``[B]``, what the start of each sample is keyed by; None for its position in the batch
                and, under torch.distributed, the rank of this process.
            graph, validate: see :func:`fastat.pgd`.

        Raises:
            TypeError, ValueError: as :func:`fastat.pgd`; for "free", which makes no batch adversarial by itself.
        """
        if self.kind == "free":
            raise ValueError("attack 'free' has no pass of its own: use protocol.stepping(model, x, y, delta=...)")
        if self.kind == "none":
            return x
        ids = own_ids(x) if sample_ids is None else sample_ids
        shared: dict[str, Any] = {"bounds": self.bounds, "seed": seed, "sample_ids": ids, "graph": graph}
        shared |= {"norm": self.norm, "training": True, "validate": validate}
        with in_eval_mode(model) if self.mode == "eval" else nullcontext():
            if self.kind in _SINGLE_STEP:
                noise, step, clip = _SINGLE_STEP[self.kind]
                size = step * self.eps if self.step_size is None else self.step_size
                return fgsm(model, x, y, self.eps, size, noise=noise, clip=clip, **shared)
            if self.kind == "pgd-kl":
                shared |= {"loss": "kl", "start": self._beside(x, seed, ids)}
            return pgd(model, x, y, self.eps, self.step_size, self.steps, **shared)

    def _beside(self, x: Tensor, seed: int | Tensor | None, ids: Tensor) -> Tensor:
        """Points close by the inputs, where the divergence from the prediction on them has a gradient."""
        lower, upper = self.bounds or (None, None)
        width = 1.0 if lower is None or upper is None else upper - lower
        return random_start(x, min(_TRADES_NOISE * width, self.eps), "linf", seed, ids, lower, upper)

    @property
    def title(self) -> str:
        """In words: "PGD-10", "N-FGSM", "clean images"."""
        if self.kind.startswith("pgd"):
            return f"PGD-{self.steps}"
        return {"none": "clean images", "free": f"Free (m = {self.replays})"}.get(self.kind, self.kind.upper())


def stepped(x: Tensor, delta: Tensor, bounds: Bounds) -> Tensor:
    """The inputs with the perturbation that attack "free" carries on, inside the box: a leaf that takes a gradient."""
    lower, upper = bounds or (None, None)
    x_adv = x + delta
    return (x_adv if bounds is None else x_adv.clamp_(lower, upper)).detach().requires_grad_()


def move_(delta: Tensor, gradient: Tensor, attack: Attack) -> None:
    """delta <- clip(delta + step_size sign(gradient), -eps, eps), the gradient that of the weights' own backward pass
    (Shafahi et al., "Adversarial training for free!", NeurIPS 2019, algorithm 1), at the image that is clipped to
    the box: a pixel that delta pushes out of it can come back."""
    size = attack.eps if attack.step_size is None else attack.step_size
    flat = gradient.to(delta.dtype).contiguous()
    STEPS[attack.norm](delta, flat, torch.zeros_like(delta), size, attack.eps, None, None)
