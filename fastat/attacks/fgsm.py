"""The fast gradient sign method and its random-start variants: one gradient step."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from fastat.attacks.gradient import Modules, attacking
from fastat.attacks.inputs import Normalization, check_images, checked
from fastat.attacks.objective import Goal, LossFunction
from fastat.attacks.problem import Problem, run
from fastat.attacks.weakness import check_modes, report
from fastat.graphs import Graph, Tensors, capturing, check_graph
from fastat.kernels import ops
from fastat.kernels.arguments import check_number
from fastat.kernels.sizes import Box, Size
from fastat.models import Model
from fastat.support.threat import Norm


def fgsm(
    model: Model,
    x: Tensor,
    y: Any,
    eps: Size = 8 / 255,
    step_size: Size | None = None,
    *,
    norm: Norm = "linf",
    noise: float = 0.0,
    clip: bool = True,
    loss: ops.LossKind | LossFunction = "ce",
    targets: Any = None,
    inputs: tuple[Any, ...] | Mapping[str, Any] = (),
    mask: Tensor | None = None,
    ignore_index: int = -100,
    bounds: Box = (0.0, 1.0),
    quantize: int | None = None,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    normalization: Normalization | None = None,
    training: bool = False,
    graph: Graph = False,
    validate: bool = True,
) -> Tensor:
    """Adversarial examples by a single gradient step.

    ==================================  =======================================================================
    ``fgsm(model, x, y, eps)``          FGSM (Goodfellow, Shlens, Szegedy, ICLR 2015)
    ``noise=1, step_size=1.25 * eps``   RS-FGSM (Wong, Rice, Kolter, "Fast is better than free", ICLR 2020)
    ``noise=2, clip=False``             N-FGSM (de Jorge et al., "Make some noise", NeurIPS 2022)
    ==================================  =======================================================================

    Args:
        eps: radius >= 0, in the units of the bounds.
        step_size: length of the step; None for ``eps``.
        noise: radius of the uniform random start, as a multiple of ``eps``; 0 starts at ``x``.
        clip: project the result onto the eps-ball; False leaves only the box.

    Other arguments, result, errors and warnings as for :func:`fastat.pgd`.
    """
    noise = check_number(noise, "noise")
    if loss == "kl" and noise == 0:
        raise ValueError("loss 'kl' has no gradient at x itself: start elsewhere (noise > 0)")
    check_graph(graph)
    check_images(x)
    modules = Modules(model)
    goal = Goal(loss, None, not training and not modules.couple_samples(), ignore_index, mean_will_do=True)
    watch = validate and not training and not capturing(x)
    with attacking(model, x.device) as bare, modules.noticed():
        terms, tensors, labels = checked(
            x, y, eps, eps if step_size is None else step_size, norm, goal=goal, targets=targets, bounds=bounds,
            sample_ids=sample_ids, normalization=normalization, validate=validate,
            mask=mask, inputs=inputs, quantize=quantize,
        )  # fmt: skip
        labels.couples_samples = modules.couple_samples
        if len(x) == 0:
            return x.detach().clone()
        if noise > 0:
            tensors["seed"] = ops.seed_tensor(seed, x.device)

        def work(problem: Problem, tensors: Tensors) -> tuple[Tensor, ...]:
            if noise > 0:
                x_adv = problem.with_radius(noise * problem.eps).random_start(tensors["seed"], 0)
            else:
                x_adv = problem.centre()
            output, _, grad = problem.gradient(x_adv)
            doubts = problem.doubts(output, grad) if watch else ()
            reached = problem if clip else problem.with_radius(math.inf)
            reached.step_(x_adv, grad, reached.step_size)
            return reached.leave(x_adv), *doubts

        x_adv, *doubts = run(work, bare, terms, tensors, labels, ("fgsm", noise, clip, watch), graph)
    if not training:
        check_modes(modules.running, averaged=False)
    if doubts:
        report((doubts[0], doubts[1]))
    return x_adv
