"""Other attack libraries, called as their documentation says: ``make(model, eps, step_size, steps, shape, classes)``
gives a function ``(x, y) -> x_adv`` of linf PGD with a random start on the box [0, 1]; ``shape`` is that of one image.

An object that a user would make once is made once. :class:`NotHere` says what is missing.
"""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor, nn

from bench.contests.contest import NotHere

Attack = Callable[[Tensor, Tensor], Tensor]
Shape = tuple[int, ...]


def torchattacks(model: nn.Module, eps: float, step_size: float, steps: int, shape: Shape, classes: int) -> Attack:
    import torchattacks

    return torchattacks.PGD(model, eps=eps, alpha=step_size, steps=steps, random_start=True)


def foolbox(model: nn.Module, eps: float, step_size: float, steps: int, shape: Shape, classes: int) -> Attack:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=next(model.parameters()).device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=step_size, steps=steps, random_start=True)
    return lambda x, y: attack(wrapped, x, y, epsilons=eps)[1]


def adv_lib(model: nn.Module, eps: float, step_size: float, steps: int, shape: Shape, classes: int) -> Attack:
    from adv_lib.attacks import pgd_linf

    return lambda x, y: pgd_linf(model, x, y, eps, steps=steps, absolute_step_size=step_size)


def cleverhans(model: nn.Module, eps: float, step_size: float, steps: int, shape: Shape, classes: int) -> Attack:
    import numpy as np
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent

    def attack(x: Tensor, y: Tensor) -> Tensor:
        # Its sanity checks hand CUDA tensors to numpy; its documentation offers to turn them off for speed.
        return projected_gradient_descent(
            model, x, eps, step_size, steps, np.inf, clip_min=0.0, clip_max=1.0, y=y, sanity_checks=False
        )

    return attack


def art(model: nn.Module, eps: float, step_size: float, steps: int, shape: Shape, classes: int) -> Attack:
    import numpy as np
    import torch
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    device = next(model.parameters()).device
    classifier = PyTorchClassifier(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=shape,
        nb_classes=classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if device.type == "cuda" else "cpu",
    )

    def attack(x: Tensor, y: Tensor) -> Tensor:
        pgd = ProjectedGradientDescentPyTorch(
            classifier, norm=np.inf, eps=eps, eps_step=step_size, max_iter=steps, num_random_init=1,
            batch_size=len(x), verbose=False,
        )  # fmt: skip
        return torch.from_numpy(pgd.generate(x=x.cpu().numpy(), y=y.cpu().numpy())).to(device)

    return attack


PEERS = {
    "torchattacks": torchattacks,
    "foolbox": foolbox,
    "adv-lib": adv_lib,
    "cleverhans": cleverhans,
    "adversarial-robustness-toolbox": art,
}


def ready(name: str, model: nn.Module, eps: float, step_size: float, steps: int, shape: Shape, classes: int) -> Attack:
    """The attack of that peer; NotHere if its package is not installed or cannot be imported."""
    try:
        version(name)
    except PackageNotFoundError:
        raise NotHere("not installed") from None
    try:
        return PEERS[name](model, eps, step_size, steps, shape, classes)
    except ImportError as error:
        raise NotHere(f"cannot be imported: {error}") from error


def versions() -> dict[str, str]:
    """The installed peers' versions."""
    found = {}
    for name in PEERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
