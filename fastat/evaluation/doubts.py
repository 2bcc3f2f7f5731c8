"""What makes an evaluation doubtful: outputs that are random or no logits, and attacks in the wrong order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fastat.attacks import like_probabilities, warn
from fastat.models import Model, class_logits, logits_of


class Logarithm(nn.Module):
    """Logits of a module that returns probabilities."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return _logarithm(self.inner(x))


def _logarithm(output: Any) -> Tensor:
    """Logits of probabilities. One that is rounded to 0 has no gradient."""
    probabilities = logits_of(output)
    return probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()


def attacked_model(model: Model, x: Tensor) -> Model:
    """What is to be attacked: the model, or the logarithm of the probabilities of several classes that it returns.
    Warns of such, of NaN, and where two passes over ``x`` differ by more than rounding."""
    with torch.no_grad():
        first, second = (logits_of(model(x.clone())) for _ in range(2))
    logits = class_logits(first)
    if logits.dim() != 2 or len(first) != len(x):
        raise ValueError(f"the model must return logits [{len(x)}, C] of classes, got {list(first.shape)}")
    _check_repeatable(first.float(), second.float(), x)
    if bool(logits.isnan().any()):
        warn(
            "the model returns NaN",
            f"for {int(logits.isnan().any(1).sum())} of {len(x)} images. They count as what argmax makes of them",
        )
    if logits is not first or not bool(like_probabilities(first, None)):
        return model
    warn(
        "the model's outputs look like probabilities",
        "they are not negative and each row sums to one. Attacked is their logarithm, which has the same classes; what "
        "the format rounds to 0 is lost to it. Pass the model without its softmax",
    )
    return Logarithm(model) if isinstance(model, nn.Module) else lambda x: _logarithm(model(x))


def _check_repeatable(first: Tensor, second: Tensor, x: Tensor) -> None:
    autocast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    rounding = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps ** 0.5
    apart, size = (t.nan_to_num(0.0, 0.0, 0.0).abs().amax(0) for t in (first - second, first))
    if bool((apart > rounding * size).any()):  # each class by its own size: one may be masked by -1e6
        warn(
            "the model is random",
            f"two passes over the same images differ by up to {float(apart.max()):.3g} in their outputs, so that an "
            "attack follows the gradient of one draw and is scored on another: robust accuracies are too high. Make "
            "the draw fixed, or evaluate the mean of many: lambda x: torch.stack([model(x) for _ in range(9)]).mean(0)",
        )


def check_single(low: float, high: float, n: int) -> None:
    """Warns of single outputs that all lie in [0, 1], as a sigmoid makes them: as logits they say class 1 always."""
    if 0 <= low <= high <= 1 and n > 1:
        warn(
            "the model's outputs look like probabilities",
            f"one number for each of {n} images, all in [{low:.3g}, {high:.3g}], is taken for the logit of class 1, "
            "which is predicted where it is above 0. Pass the model without its sigmoid, or lambda x: model(x).logit()",
        )


def check_order(correct: Mapping[str, Tensor], steps: Mapping[str, int | None]) -> None:
    """Warns where several steps find clearly less than a single one: on more images than by chance (of those that only
    one of the two breaks, more than two standard deviations over half). ``steps`` by name, None if not known."""
    for name, some in correct.items():
        for one, single in correct.items():
            if steps.get(one) == 1 and (steps.get(name) or 0) > 1:
                more, less = int((some & ~single).sum()), int((single & ~some).sum())
                if more - less > 2 * (more + less) ** 0.5:
                    warn(
                        "several steps find less than a single one",
                        f"{int(some.sum())} of {len(some)} are robust under {name}, {int(single.sum())} under {one}. "
                        "The gradient misleads the steps: take the lower number, and attack in other ways too (other "
                        "losses, larger steps, more restarts, from other models)",
                    )
