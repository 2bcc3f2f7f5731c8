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
    """Logits of probabilities, of a single one of class 1 against class 0. Those of 0, too small for their format, have
    no gradient."""
    found = logits_of(output)
    if found.dim() == 1 or found.shape[1] == 1:
        p = found.reshape(-1, 1)
        found = torch.cat([1 - p, p], dim=1)
    return found.clamp(min=torch.finfo(found.dtype).tiny).log()


def attacked_model(model: Model, x: Tensor) -> Model:
    """What is to be attacked: the model, or the logarithm of the probabilities that it returns. Warns of such, and
    where two passes over ``x`` differ by more than rounding."""
    with torch.no_grad():
        outputs = [logits_of(model(x.clone())) for _ in range(2)]
    first, second = (class_logits(output).float() for output in outputs)
    if first.dim() != 2 or len(first) != len(x):
        raise ValueError(f"the model must return logits [{len(x)}, C] of classes, got {list(first.shape)}")
    autocast = torch.is_autocast_enabled(x.device.type)
    dtype = torch.get_autocast_dtype(x.device.type) if autocast else x.dtype
    rounding = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps ** 0.5
    apart, size = (t.nan_to_num(0.0, 0.0, 0.0).abs().amax() for t in (first - second, first))
    if bool(apart > rounding * size):
        warn(
            "the model is random",
            f"two passes over the same images differ by up to {float(apart):.3g} in their outputs, so that an attack "
            "follows the gradient of one draw and is scored on another: robust accuracies are too high. Make the draw "
            "fixed, or evaluate the mean of many: lambda x: torch.stack([model(x) for _ in range(20)]).mean(0)",
        )
    if not bool(like_probabilities(outputs[0])):
        return model
    warn(
        "the model's outputs look like probabilities",
        "they lie in [0, 1], and rows of several classes sum to one. Attacked is their logarithm, which has the same "
        "classes; what the format rounds to 0 is lost to it. Pass the model without its softmax or sigmoid",
    )
    return Logarithm(model) if isinstance(model, nn.Module) else lambda x: _logarithm(model(x))


def check_order(accuracy: Mapping[str, float], steps: Mapping[str, Any]) -> None:
    """Warns where several steps leave more than a single one does; ``steps`` by name, None where nothing is known."""
    for name, share in accuracy.items():
        for one, found in accuracy.items():
            if steps.get(one) == 1 and (steps.get(name) or 0) > 1 and share > found:
                warn(
                    "several steps find less than a single one",
                    f"{share:.2%} are robust under {name}, {found:.2%} under {one}. The gradient misleads the steps: "
                    "take the lower number, and attack in other ways too (other losses, larger steps, more restarts, "
                    "from other models)",
                )
