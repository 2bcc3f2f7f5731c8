"""A training protocol as a value: what a loop of any kind descends on a batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastat.graphs import Graph
from fastat.kernels.arguments import check_number
from fastat.models import Model, unwrapped
from fastat.protocols.attack import Attack, AttackFunction, move_
from fastat.protocols.awp import perturbed_weights
from fastat.protocols.checks import one_of, plain_numbers
from fastat.protocols.descent import Batch, adversarial, descended, misaligned
from fastat.protocols.losses import LOSSES, CrossEntropy, Loss, LossFunction, Mart, Trades
from fastat.protocols.objective import OBJECTIVES, Benign, Holistic, Mean, Objective, ObjectiveFunction
from fastat.protocols.plain import data_of, parts_of
from fastat.support.distributed import Group, own_ids


class Outcome(NamedTuple):
    """What a protocol makes of a batch.

    Attributes:
        loss: what is descended, 0-d with gradient; float32, or float64 for a model that is.
        logits: ``[B, C]`` on the adversarial examples, in the precision of the loss, with gradient.
        x_adv: the adversarial examples, like the batch.
    """

    loss: Tensor
    logits: Tensor
    x_adv: Tensor


@dataclass(frozen=True)
class Protocol:
    """What a training descends on a batch: an attack, a loss of each sample, an objective of them all, and extras.

    ``loss = protocol(model, x, y)`` goes into any loop. A value: immutable, equal to one of the same parts, picklable,
    and plain data by :meth:`as_dict` and :meth:`from_dict`. :func:`fastat.protocol` makes one by its name.

    In a loop over several processes (DistributedDataParallel, FSDP2) every process calls it with its part of the batch.
    A mean is then that of all parts, if these are of one size, after the gradients are averaged; HR and BAT look at the
    batch as a whole, and are those of all parts only if ``group`` names the processes. For the same reason they are not
    those of the whole batch where it is cut into micro-batches. Where SyncBatchNorm is in train mode every step of an
    attack is an exchange: all processes take equally many.

    Attributes:
        attack: an :class:`Attack`, or a function ``(model, x, y) -> x_adv``, which is given ``seed`` and ``sample_ids``
            too if it takes them (``functools.partial(fastat.pgd, eps=8 / 255, loss="margin")`` does).
        loss: :class:`CrossEntropy`, :class:`Trades`, :class:`Mart` or their names, or a function of the output on the
            adversarial examples and the labels, ``(output, y) -> losses [B]``.
        objective: :class:`Mean`, :class:`Holistic`, :class:`Benign` or their names, or a function of the losses,
            ``[B] -> 0-d``.
        grad_align: weight of :func:`fastat.gradient_misalignment`, which keeps the network linear within eps; 0 leaves
            it out. Costs a second derivative.
        awp: relative size of :func:`fastat.perturbed_weights`; 0 for none.

    Raises:
        TypeError, ValueError: a part that is none of these, a value out of its range, or parts that do not go together.
    """

    attack: Attack | AttackFunction
    loss: Loss | LossFunction = CrossEntropy()  # noqa: RUF009  (immutable)
    objective: Objective | ObjectiveFunction = Mean()  # noqa: RUF009
    grad_align: float = 0.0
    awp: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("loss", LOSSES), ("objective", OBJECTIVES)):
            value = getattr(self, name)
            if isinstance(value, str):
                one_of(value, name, tuple(known))
                object.__setattr__(self, name, known[value]())
            elif isinstance(value, type) or not callable(value):
                raise TypeError(
                    f"{name} must be one of {', '.join(known)}, an object of theirs or a function, got {value!r}"
                )
        if isinstance(self.attack, type | str) or not callable(self.attack):
            raise TypeError(
                f"attack must be an Attack, as Attack('pgd', eps=8 / 255), or a function, got {self.attack!r}"
            )
        check_number(self.grad_align, "grad_align")
        check_number(self.awp, "awp")
        plain_numbers(self, "grad_align", "awp")
        if self.grad_align > 0 and not isinstance(self.attack, Attack):
            raise ValueError("grad_align takes eps and bounds from an Attack: it must be 0 with an attack of one's own")

    @property
    def couples(self) -> bool:
        """Whether it is part of the step of the optimizer too: AWP, and attack "free"."""
        return self.awp > 0 or self._is_free

    def __call__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        seed: int | Tensor | None = None,
        sample_ids: Tensor | None = None,
        group: Group | None = None,
    ) -> Tensor:
        """The loss to descend: attacks the batch, and takes the objective there.

        The network is called as it is, through DistributedDataParallel once, whose gradients are then those of all
        processes; attacks, clean passes and GradAlign go past the wrapper. Call it under autocast, GradScaler or
        ``no_sync`` as you would call the model.

        Args:
            model: any module, or a function, from inputs to logits ``[B, C]`` (or to a mapping or an object with
                ``logits``); in train mode for a training. Its mode is left as it was.
            x: ``[B, ...]``, within the bounds of the attack.
            y: integer labels ``[B]``; with an attack, a loss and an objective of one's own, what these take.
            seed: of the attack's and GradAlign's noise, a number to be changed from step to step, and from one
                micro-batch to the next where there are no ids; None to draw it from torch's CPU generator.
            sample_ids: int64 ``[B]``, of the images in the dataset say: with the same seed a sample meets the same
                random numbers in any batch and process. None for its position and the rank of the process; processes
                that share a batch, as those of tensor parallelism do, must be given the same.
            group: processes of torch.distributed over which the batch is spread, whose losses HR and BAT then take
                together.

        Returns:
            0-d with gradient.

        Raises:
            TypeError, ValueError: as :func:`fastat.pgd`; an empty batch; a protocol that couples to the step of the
                optimizer, which :meth:`stepping` is for.
        """
        return self.outcome(model, x, y, seed=seed, sample_ids=sample_ids, group=group).loss

    def outcome(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        seed: int | Tensor | None = None,
        sample_ids: Tensor | None = None,
        group: Group | None = None,
    ) -> Outcome:
        """The loss with the logits and the adversarial examples, for a log; otherwise like the call."""
        if self.couples:
            what = "AWP" if self.awp > 0 else "attack 'free'"
            raise ValueError(
                f"{what} is part of the optimizer's step: use `with protocol.stepping(model, x, y) as outcome:`, "
                "and within the block outcome.loss.backward() and optimizer.step()"
            )
        with self.stepping(model, x, y, seed=seed, sample_ids=sample_ids, group=group) as found:
            return found

    @contextmanager
    def stepping(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        *,
        delta: Tensor | None = None,
        seed: int | Tensor | None = None,
        sample_ids: Tensor | None = None,
        group: Group | None = None,
        graph: Graph = False,
        validate: bool = True,
    ) -> Iterator[Outcome]:
        """A step of any protocol, those that couple to the optimizer's included::

            with protocol.stepping(model, x, y, delta=delta) as outcome:
                outcome.loss.backward()
                optimizer.step()
                optimizer.zero_grad()

        Within the block AWP's perturbation is on the weights, and is taken off at its end. ``delta`` is the
        perturbation that attack "free" carries from step to step, zeros like the batch at first, which the end of the
        block moves in place by the gradient of this backward pass; each batch comes ``attack.replays`` times in a row.

        With accumulated gradients the block holds the backward pass alone, and the optimizer steps outside: that
        weights decay towards the perturbed ones is then lost, which AWP's authors have by stepping inside.

        Args:
            delta: of attack "free", like ``x``; else None.
            group: for AWP also the processes whose gradients point the way together; by default those of
                DistributedDataParallel, where the model is wrapped in it.
            graph, validate: see :func:`fastat.pgd`.

        The other arguments and errors are those of the call.
        """
        batch = _checked(x, y, seed, sample_ids, group)
        if delta is not None and not self._is_free:
            raise ValueError("delta is carried by attack 'free' alone: leave it out")
        x_adv = adversarial(self.attack, model, batch, delta, graph, validate)

        def worst() -> Tensor:
            with unwrapped(model) as bare:
                return self._descended(bare, batch, x_adv)[0]

        differentiated: list[bool] = []
        try:
            with perturbed_weights(model, worst, self.awp, group):
                loss, logits = self._descended(model, batch, x_adv)
                if self.couples and loss.requires_grad:
                    loss.register_hook(lambda _: differentiated.append(True))
                yield Outcome(loss, logits, x_adv)
        finally:
            if self.couples:
                torch.clear_autocast_cache()  # it may hold the weights as they were within the block
        if self.couples and not differentiated:
            raise RuntimeError("the loss was not differentiated within the block: call outcome.loss.backward() there")
        if delta is not None:
            assert isinstance(self.attack, Attack) and x_adv.grad is not None
            move_(delta, x_adv.grad, self.attack)

    def _descended(self, model: Model, batch: Batch, x_adv: Tensor) -> tuple[Tensor, Tensor]:
        value, logits = descended(self.loss, self.objective, model, batch, x_adv)
        if self.grad_align > 0:
            assert isinstance(self.attack, Attack)
            value = value + self.grad_align * misaligned(model, batch, self.attack.eps, self.attack.bounds)
        return value, logits

    @property
    def _is_free(self) -> bool:
        return isinstance(self.attack, Attack) and self.attack.kind == "free"

    def __str__(self) -> str:
        """The training in the words of a title: "PGD-10 adversarial training", "HR (alpha 0.05, r 0.1) on N-FGSM"."""
        attack = self.attack.title if isinstance(self.attack, Attack) else _name(self.attack)
        of_loss = self.loss.title if isinstance(self.loss, CrossEntropy | Trades | Mart) else _name(self.loss)
        of_batch = self.objective.title if isinstance(self.objective, Holistic | Benign) else ""
        if not isinstance(self.objective, Mean | Holistic | Benign):
            of_batch = _name(self.objective)
        on = f"{of_loss} on {attack}" if of_loss else attack
        if of_batch:
            text = f"{of_batch} on {on}"
        elif of_loss:
            text = on
        else:
            text = "standard training" if attack == "clean images" else f"{attack} adversarial training"
        text += f" with GradAlign ({self.grad_align:g})" if self.grad_align else ""
        return text + (f" with AWP ({self.awp:g})" if self.awp else "")

    def as_dict(self) -> dict[str, Any]:
        """The protocol as numbers, strings and dicts of these, which JSON holds.

        Raises:
            TypeError: a part is a function of one's own.
        """
        parts = data_of(self.attack, loss=self.loss, objective=self.objective)
        return parts | {"grad_align": self.grad_align, "awp": self.awp}

    @staticmethod
    def from_dict(saved: Mapping[str, Any]) -> Protocol:
        """The protocol that :meth:`as_dict` made plain data of.

        Raises:
            TypeError, ValueError: it is no such data; the message names what is wrong.
        """
        return Protocol(**parts_of(saved))


def _checked(x: Tensor, y: Tensor, seed: int | Tensor | None, sample_ids: Tensor | None, group: Group | None) -> Batch:
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor [B, ...], got {type(x).__name__}")
    if x.dim() == 0 or len(x) == 0:
        raise ValueError("x must hold a sample: the loss of an empty batch is no number")
    if group is not None and not isinstance(group, Group):
        raise TypeError(f"group must be a process group of torch.distributed, got {group!r}")
    ids = own_ids(x) if sample_ids is None else sample_ids
    return Batch(x, y, ids, int(torch.randint(2**63 - 1, ())) if seed is None else seed, group)


def _name(function: object) -> str:
    return getattr(function, "__name__", type(function).__name__)
