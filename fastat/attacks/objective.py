"""The loss that an attack ascends, its gradient to the input, and when the attack has won a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastat.attacks.gradient import to_the_input
from fastat.kernels import ops
from fastat.models import Model, class_logits, logits_of

LossFunction = Callable[[Any, Any], Tensor]
"""``(model output, y) -> loss [B]``."""

WonFunction = Callable[[Any, Any], Tensor]
"""``(model output, y) -> bool [B]``."""


@dataclass(frozen=True)
class Goal:
    """What an attack is after, as far as it is no tensor.

    Attributes:
        loss: a kind of :func:`fastat.attack_loss`, or a function of the model's output and the labels.
        won: which samples the attack has won, of the same; None for the classes that are predicted.
        independent: the output of a sample does not depend on others, so that each may have a gradient of a length of
            its own: the cross-entropy of classes is then ascended as the log-odds against the label.
        ignore_index: the label of positions that do not count, in outputs that have several.
        mean_will_do: a loss function may return one number for the batch: only its gradient is needed.
    """

    loss: ops.LossKind | LossFunction
    won: WonFunction | None = None
    independent: bool = False
    ignore_index: int = -100
    mean_will_do: bool = False

    @property
    def of_classes(self) -> bool:
        """Whether the output must be logits of classes."""
        return not callable(self.loss) and self.loss != "bce"


@dataclass(frozen=True)
class Objective:
    """The loss an attack ascends on its samples, and when it has won.

    With ``targets`` it is the negative loss towards the target (except for dlr_targeted, which holds both labels), and
    the attack has won a sample when the model predicts its target; without, when it does not predict ``y``.
    ``check_classes`` is told how many classes the model has, and may raise; ``couples_samples`` tells after a pass
    whether it normalizes by the batch.
    """

    forward: Model
    goal: Goal
    y: Any
    check_classes: Callable[[int], None]
    targets: Any = None
    reference: Tensor | None = None
    couples_samples: Callable[[], bool] = lambda: False

    def won(self, output: Any, batch: int) -> Tensor | None:
        """bool ``[B]``, of what the model returned; None where nothing says which samples are."""
        wanted = self.y if self.targets is None else self.targets
        if self.goal.won is not None:
            found = self.goal.won(output, wanted)
            if not isinstance(found, Tensor) or found.dtype != torch.bool or found.shape != (batch,):
                kind = f"{list(found.shape)} of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"won(output, y) must return a bool for each sample [{batch}], got {kind}")
            return found
        if not self.goal.of_classes or wanted is None:
            return None
        logits = class_logits(output)
        if logits.dim() != 2:
            return None
        predicted = logits.argmax(dim=1)
        return predicted != wanted if self.targets is None else predicted == wanted

    def score(self, output: Any, loss: Tensor, early_stop: bool = False) -> Tensor:
        """What a result is ranked by, ``[B]``: infinite if it is won, else its loss. ``early_stop`` must know which
        are won."""
        won = self.won(output, len(loss))
        if won is None and early_stop:
            raise ValueError(
                "early_stop needs won, a function (output, y) -> bool [B] that says which samples the attack has "
                "won, unless there are labels y [B] and one prediction for each sample, logits [B, C]"
            )
        finite = loss.clamp(max=torch.finfo(loss.dtype).max)  # of a user's own it may be infinite
        return finite if won is None else torch.where(won, torch.inf, finite)

    def value(self, x: Tensor) -> tuple[Any, Tensor]:
        """``(output, loss [B])`` without a gradient."""
        with torch.no_grad():
            output = self.forward(x.clone())  # the model's first layer may work in place
            return output, self._loss(output, self._logits(output, len(x)), len(x))[0]

    def gradient(self, x: Tensor, change: Callable[[Tensor], Tensor] | None = None) -> tuple[Any, Tensor, Tensor]:
        """``(output, loss [B], gradient of each sample's loss with respect to x)``, where the model sees ``change(x)``
        if that is given."""
        leaf = x.detach().requires_grad_()
        output = self.forward(leaf if change is None else change(leaf))
        logits = self._logits(output, len(x))
        loss, seed = self._loss(output, logits, len(x))
        ascended = loss.sum() if logits is None else logits
        grad = to_the_input(ascended, leaf, seed) if ascended.requires_grad else None
        if grad is None:
            raise ValueError(
                "the loss has no gradient with respect to x: does the model depend on x, without detach()?"
            )
        return output, loss.detach(), grad

    def counted(self, batch: int) -> Tensor | None:
        """bool ``[B]``: samples of which some position counts; None if all have one."""
        if not self.goal.of_classes or self.y is None or self.y.dim() < 2:
            return None
        return self._counts(self.y).view(batch, -1).any(1)

    def _logits(self, output: Any, batch: int) -> Tensor | None:
        """Of what the model returns, those that a compiled loss takes; None for a loss of one's own."""
        if callable(self.goal.loss):
            return None
        returned = logits_of(output)
        logits = class_logits(output) if self.goal.of_classes else returned
        if logits.dim() == 1:
            logits = logits.unsqueeze(1)
        if returned.dim() == 0 or returned.shape[0] != batch:
            raise ValueError(f"the model must return logits [{batch}, C, ...], got {list(returned.shape)}")
        expected = logits.shape[:1] + logits.shape[2:] if self.goal.of_classes else returned.shape
        for name, labels in (("y", self.y), ("targets", self.targets)):
            if labels is None or labels.shape == expected:
                continue
            if not self.goal.of_classes and labels.reshape(batch, -1).shape == logits.reshape(batch, -1).shape:
                continue
            several = ", one label for each position" if logits.dim() > 2 and self.goal.of_classes else ""
            raise ValueError(
                f"{name} must have shape {list(expected)} for logits {list(returned.shape)}{several}, "
                f"got {list(labels.shape)}"
            )
        if self.goal.of_classes:
            self.check_classes(logits.shape[1])
        return logits

    def _loss(self, output: Any, logits: Tensor | None, batch: int) -> tuple[Tensor, Tensor | None]:
        """The loss to ascend and, for the compiled losses, its gradient with respect to the logits."""
        goal, wanted, sign = self.goal, self.y, 1.0
        if self.targets is not None and goal.loss != "dlr_targeted":
            wanted, sign = self.targets, -1.0
        if callable(goal.loss):
            return sign * self._own_loss(goal.loss(output, wanted), batch), None
        assert logits is not None
        logits = logits.detach()
        if goal.loss == "bce":
            rows = logits.flatten(1)
            loss, grad = ops.attack_loss(rows, wanted.view_as(rows), "bce")
            grad = grad.view_as(logits)
        elif logits.dim() == 2:
            independent = goal.independent and not self.couples_samples()
            kind = "log_odds" if goal.loss == "ce" and independent else goal.loss
            targets = self.targets if kind == "dlr_targeted" else None
            loss, grad = ops.attack_loss(logits, wanted, kind, targets=targets, reference=self.reference)
        else:
            loss, grad = self._of_positions(logits, wanted)
        return (loss, grad) if sign == 1 else (-loss, -grad)

    def _of_positions(self, logits: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over the positions of ``logits`` [B, C, ...] that count, and the gradient of their sum: a share of
        one position may be less than half precision has."""
        last, n = logits.movedim(1, -1), len(logits)
        rows = last.reshape(-1, logits.shape[1])
        targets = self.targets if self.goal.loss == "dlr_targeted" else None
        counts = self._counts(wanted) if targets is None else self._counts(wanted) & self._counts(targets)
        y, t = (None if labels is None else torch.where(counts, labels.flatten(), 0) for labels in (wanted, targets))
        reference = None if self.reference is None else self.reference.movedim(1, -1).reshape(rows.shape)
        loss, grad = ops.attack_loss(rows, y, self.goal.loss, targets=t, reference=reference)  # type: ignore[arg-type]
        each = torch.where(counts, loss, 0).view(n, -1).sum(1)
        mean = each / counts.view(n, -1).sum(1).clamp(min=1).to(loss.dtype)
        return mean, torch.where(counts.unsqueeze(1), grad, 0).view(last.shape).movedim(-1, 1)

    def _counts(self, labels: Tensor) -> Tensor:
        return (labels != self.goal.ignore_index).flatten()

    def _own_loss(self, loss: Any, batch: int) -> Tensor:
        if isinstance(loss, Tensor) and (loss.shape == (batch,) or (loss.dim() == 0 and self.goal.mean_will_do)):
            return loss
        if isinstance(loss, Tensor) and loss.dim() == 0 and batch == 1:
            return loss.view(1)
        found = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        number = " (one number for the batch will do where nothing is ranked: one run, keep='last', no early_stop)"
        raise ValueError(f"loss(output, y) must return one loss per sample [{batch}], got {found}{number}")
