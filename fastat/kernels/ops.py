"""The compiled ops: one typed wrapper per op, with its fake kernel and autograd formula.

Every op takes CPU and CUDA tensors of dtype float64, float32, float16 or bfloat16, any shape ``[B, ...]`` (``B`` may be
0) and any strides; it works fastest when all tensors share one dense layout (contiguous or channels last). Radii and
step sizes are a number, one per sample ``[B]``, or, for linf, a tensor that broadcasts against the data
(:data:`fastat.kernels.sizes.Size`). So are ``lower`` and ``upper``, the ends of the box, for every norm; ``None`` means
no bound. Arithmetic is in float32 (float64 for float64 data), sums in float64. Results in half precision are rounded so
that they stay inside the ball and the box.

Shapes, dtypes, devices and Python numbers are checked on every call (TypeError, ValueError). Values inside tensors are
checked on the CPU; on CUDA, where looking would stall the device, a label out of range gives its row a NaN loss and a
zero gradient. Each op has a twin of the same name and signature in ``fastat.reference``.
"""

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fastat.kernels.arguments import (
    aligned,
    box,
    check_data,
    check_like,
    class_labels,
    compute_dtype,
    integer_labels,
    row_major_or_channels_last,
    samples_dense,
    sized,
)
from fastat.kernels.overlap import check_written
from fastat.kernels.sizes import Size, in_layout
from fastat.support.threat import Norm, check_norm

LossKind = Literal["ce", "margin", "dlr", "dlr_targeted", "kl", "log_odds", "bce"]
LOSS_KINDS: tuple[str, ...] = get_args(LossKind)
LEAST_CLASSES = {"ce": 2, "margin": 2, "dlr": 3, "dlr_targeted": 4, "kl": 2, "log_odds": 1, "bce": 1}

_ops = torch.ops.fastat
_COMPILED: Mapping[Norm, Callable[..., None]] = {"linf": _ops.linf_step_, "l2": _ops.l2_step_, "l1": _ops.l1_step_}


def linf_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: Size,
    eps: Size,
    lower: Size | None = 0.0,
    upper: Size | None = 1.0,
) -> Tensor:
    """One linf ascent step, in place.

    ``clamp(x + clamp((x_adv + step_size * sign(grad)) - x, -eps, eps), lower, upper)``, every operation rounded to the
    data's precision: the bits are those of that expression in plain PyTorch (Madry et al., "Towards deep learning
    models resistant to adversarial attacks", 2018). One pass: 16 bytes per float32 element, and 4 more for each size
    that differs from element to element. A NaN gradient entry moves nothing, an infinite one by its sign.

    Args:
        x_adv: the iterate, ``[B, ...]``; overwritten.
        grad: gradient of the loss to ascend, like ``x_adv``.
        x: the centre of the ball, like ``x_adv``.
        step_size, eps: length of the step and radius, >= 0: a number, one per sample ``[B]``, or a tensor that
            broadcasts against ``x``. ``[B]`` where the last dimension of ``x`` is B too is refused.
        lower, upper: the box: numbers or tensors as above; None for no bound.

    Returns:
        ``x_adv``.

    Raises:
        TypeError, ValueError: on wrong dtypes, shapes, devices or numbers, or where ``x_adv`` shares memory with itself
            or with another argument. Nothing is written then.
        RuntimeError: if ``x_adv`` requires grad while grad mode is on, or CUDA tensors meet a build without CUDA code.
    """
    return _step_("linf", x_adv, grad, x, step_size, eps, lower, upper)


def l2_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: Size,
    eps: Size,
    lower: Size | None = 0.0,
    upper: Size | None = 1.0,
) -> Tensor:
    """One l2 ascent step, in place: move by ``step_size * grad / ||grad||_2``, scale into the ball, clip to the box.

    The norm is per sample, and so are ``step_size`` and ``eps``: numbers or one per sample. It is measured in float64,
    whatever the length of the step and the size of the gradient. NaN entries of a gradient
    count as zero. Where entries are infinite, they share the step, each by its sign, and the finite ones do not move,
    as in the limit. Other arguments, result and errors as for :func:`linf_step_`.
    """
    return _step_("l2", x_adv, grad, x, step_size, eps, lower, upper)


def l1_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: Size,
    eps: Size,
    lower: Size | None = 0.0,
    upper: Size | None = 1.0,
    sparsity: float = 0.05,
) -> Tensor:
    """One sparse l1 ascent step, in place, with the exact projection onto ball and box together.

    Of each sample's ``n`` coordinates, the ``max(1, floor(sparsity * n))`` with the largest gradient among those that
    the box still lets move along it (ties with the last of them included) share a step of l1 length ``step_size``; the
    result is projected, in the Euclidean sense, onto the intersection of the l1 ball and the box (Croce and Hein,
    "Mind the box: l1-APGD for sparse adversarial attacks on image classifiers", 2021): exactly, from any distance, and
    entries are rounded toward ``x``.

    Args:
        step_size, eps: numbers or one per sample ``[B]``.
        sparsity: fraction of the coordinates that move, in (0, 1].

    NaN entries of a gradient move nothing; infinite ones are the largest and move by their sign. Other arguments,
    result and errors as for :func:`linf_step_`.
    """
    check_data(x_adv, "x_adv")
    selected = selected_coordinates(sparsity, x_adv)
    return _step_("l1", x_adv, grad, x, step_size, eps, lower, upper, selected)


STEPS: Mapping[Norm, Callable[..., Tensor]] = {"linf": linf_step_, "l2": l2_step_, "l1": l1_step_}
"""The ascent step of each norm."""


def project_(
    x_adv: Tensor,
    x: Tensor,
    eps: Size,
    norm: Norm,
    lower: Size | None = 0.0,
    upper: Size | None = 1.0,
) -> Tensor:
    """Projects ``x_adv`` onto the eps-ball around ``x`` and the box, in place.

    linf: exact. l2: scaled into the ball, then clipped to the box. l1: the exact Euclidean projection onto both.
    Arguments, result and errors as for :func:`linf_step_`; ``norm`` is "linf", "l2" or "l1".
    """
    order = check_norm(norm)
    check_data(x_adv, "x_adv")
    check_like(x, x_adv, "x")
    radius, radii = sized(eps, "eps", x_adv, norm)
    low, high, lows, highs = box(lower, upper, x_adv)
    check_written(x_adv, "x_adv", x=x, eps=eps, lower=lower, upper=upper)

    def write(work: Tensor) -> None:
        radii_, lows_, highs_ = _laid_out(work, radii, lows, highs)
        _ops.project_(work, aligned(x, work), radius, radii_, order, low, high, lows_, highs_)

    return _in_place(x_adv, write)


def random_start(
    x: Tensor,
    eps: Size,
    norm: Norm,
    seed: int | Tensor | None = None,
    sample_ids: Tensor | None = None,
    lower: Size | None = 0.0,
    upper: Size | None = 1.0,
    *,
    draw: int = 0,
) -> Tensor:
    """A point drawn uniformly from the eps-ball around each sample (linf: the cube), then clipped to the box.

    The random numbers are a function of (seed, sample id, draw, element) alone (Philox4x32-10, see csrc/core/philox.h):
    the same sample gets the same start in any batch, order, memory format, process or device (linf: the same bits).

    Args:
        x: ``[B, ...]``.
        eps: radius >= 0, a number, one per sample ``[B]`` or, for linf, a tensor that broadcasts against ``x``.
        norm: "linf", "l2" or "l1".
        seed: an int, an int64 0-d tensor on x's device (a captured graph can then be reseeded), or None to draw one
            from torch's CPU generator.
        sample_ids: int64 ``[B]``, for example dataset indices; None for 0 .. B-1.
        lower, upper: the box: numbers, tensors that broadcast against ``x``, or None.
        draw: number of the draw for this seed, in [0, 2**32): attacks use the number of the restart.

    Returns:
        A new tensor like ``x``.

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`linf_step_`.
    """
    order = check_norm(norm)
    check_data(x, "x")
    radius, radii = sized(eps, "eps", x, norm)
    if isinstance(draw, bool) or not isinstance(draw, Integral) or not 0 <= draw < 2**32:
        raise ValueError(f"draw must be in [0, 2**32), an integer, got {draw!r}")
    if sample_ids is not None:
        sample_ids = integer_labels(sample_ids, x, "sample_ids")
    dense = x.detach() if row_major_or_channels_last(x) else x.detach().contiguous()
    low, high, lows, highs = box(lower, upper, x)
    radii, lows, highs = _laid_out(dense, radii, lows, highs)
    start = _ops.random_start(
        dense, radius, radii, order, seed_tensor(seed, x.device), sample_ids, int(draw), low, high, lows, highs
    )
    return start if dense.stride() == x.stride() else torch.empty_like(x.detach()).copy_(start)


def attack_loss(
    logits: Tensor,
    y: Tensor | None,
    kind: LossKind = "ce",
    targets: Tensor | None = None,
    reference: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-sample loss that an attack ascends, and its gradient with respect to the logits, in one pass.

    ======================  =====================================================  ==============================
    kind                    loss                                                   source
    ======================  =====================================================  ==============================
    ``"ce"``                log sum_j exp z_j - z_y                                cross-entropy
    ``"margin"``            max_{j != y} z_j - z_y                                 Carlini and Wagner 2017
    ``"dlr"``               (max_{j != y} z_j - z_y) / (z_(1) - z_(3) + 1e-12)     Croce and Hein 2020, eq. 6
    ``"dlr_targeted"``      (z_t - z_y) / (z_(1) - (z_(3) + z_(4))/2 + 1e-12)      Croce and Hein 2020, eq. 7
    ``"kl"``                KL(softmax(reference) || softmax(z))                   Zhang et al. 2019 (TRADES)
    ``"log_odds"``          log sum_{j != y} exp z_j - z_y = log (1 - p_y)/p_y     log(exp(ce) - 1)
    ``"bce"``               sum_j (1 - y_j) softplus(z_j) + y_j softplus(-z_j)     several labels, each yes or no
    ======================  =====================================================  ==============================

    ``"log_odds"`` rises with the cross-entropy, and its gradient is that of the cross-entropy divided by 1 - p_y: the
    softmax over the other classes, and -1 at the label. It has all its digits at any confidence, where those of the
    cross-entropy vanish: in float32 from a margin of 104 on, most of them long before. Infinite logits count as in the
    limit, the largest of the other classes sharing a weight of 1; with a single class the loss is -inf, its gradient 0.

    A NaN logit makes its own row's loss and gradient NaN. The loss is differentiable once with respect to ``logits``;
    the returned gradient is a constant for autograd.

    Args:
        logits: ``[B, C]``, C >= 2 (dlr: 3, dlr_targeted: 4, log_odds and bce: 1).
        y: int64 labels ``[B]`` in [0, C); not used by ``"kl"``, where it may be None; for ``"bce"`` ``[B, C]`` of any
            dtype, in [0, 1].
        targets: int64 ``[B]``, for ``"dlr_targeted"`` only.
        reference: logits ``[B, C]``, for ``"kl"`` only; a constant for autograd.

    Returns:
        ``(loss [B], grad [B, C])``: float32 loss (float64 for float64 logits), gradient in the dtype of the logits.

    Raises:
        TypeError, ValueError: on wrong dtypes, shapes, labels (CPU), or an argument that ``kind`` does not use.
    """
    check_data(logits, "logits")
    if kind not in LOSS_KINDS:
        raise ValueError(f"kind must be one of {', '.join(LOSS_KINDS)}, got {kind!r}")
    if logits.dim() != 2 or logits.shape[1] < LEAST_CLASSES[kind]:
        raise ValueError(
            f"kind {kind!r} needs logits [B, C] with C >= {LEAST_CLASSES[kind]}, got shape {list(logits.shape)}"
        )
    for value, name, user in ((targets, "targets", "dlr_targeted"), (reference, "reference", "kl")):
        if (value is None) == (kind == user):
            raise ValueError(f"{name} goes with kind {user!r}, and only with it; got kind {kind!r}")
    if kind == "kl":
        y = None
    elif y is None:
        raise ValueError(f"kind {kind!r} needs labels y, got None")
    elif kind == "bce":
        reference = _label_matrix(y, logits)
        y = None
    else:
        y = class_labels(y, logits, "y")
    if targets is not None:
        targets = class_labels(targets, logits, "targets")
    if reference is not None:
        check_like(reference, logits, "reference")
        reference = reference.detach().contiguous()
    return _ops.attack_loss(logits.contiguous(), y, LOSS_KINDS.index(kind), targets, reference)


def _label_matrix(y: Tensor, logits: Tensor) -> Tensor:
    """Labels that are each yes or no, or between, in the dtype of the logits."""
    if not isinstance(y, Tensor) or y.shape != logits.shape or y.device != logits.device or y.is_complex():
        found = f"{list(y.shape)} of {y.dtype} on {y.device}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"y must be like the logits, {list(logits.shape)} on {logits.device}, for 'bce', got {found}")
    if y.device.type == "cpu" and y.numel() > 0 and not torch.compiler.is_compiling():
        lowest, highest = (end.item() for end in y.double().aminmax())
        if not (lowest >= 0 and highest <= 1):
            raise ValueError(f"y must be in [0, 1] for 'bce', got values in [{lowest}, {highest}]")
    return y.to(logits.dtype)


def best_(best_x: Tensor, best_loss: Tensor, x_adv: Tensor, loss: Tensor) -> None:
    """Where ``loss > best_loss``, copies the sample of ``x_adv`` into ``best_x`` and its loss, in place.

    Args:
        best_x, x_adv: ``[B, ...]``, same shape and dtype.
        best_loss, loss: ``[B]``, same dtype (float32 or float64). A NaN loss never wins.

    Raises:
        TypeError, ValueError, RuntimeError: as for :func:`linf_step_`.
    """
    check_data(best_x, "best_x")
    check_like(x_adv, best_x, "x_adv")
    for value, name in ((best_loss, "best_loss"), (loss, "loss")):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
        if value.dtype not in (torch.float32, torch.float64) or value.dtype != best_loss.dtype:
            raise TypeError(f"{name} must be float32 or float64, like best_loss, got {value.dtype}")
        if value.shape != (best_x.shape[0],) or value.device != best_x.device:
            raise ValueError(
                f"{name} must be [{best_x.shape[0]}] on {best_x.device}, got {list(value.shape)} on {value.device}"
            )
    check_written(best_x, "best_x", best_loss=best_loss, x_adv=x_adv, loss=loss)
    check_written(best_loss, "best_loss", x_adv=x_adv, loss=loss)
    loss = loss.detach().contiguous()
    _in_place(
        best_loss,
        lambda work_loss: _in_place(best_x, lambda work: _ops.best_(work, work_loss, aligned(x_adv, work), loss)),
    )


def seed_tensor(seed: int | Tensor | None, device: torch.device) -> Tensor:
    """A seed as a 0-d int64 tensor on ``device``; None draws one from torch's CPU generator."""
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != device:
            raise ValueError(
                f"seed must be one int64 on {device}, got {seed.dtype} {list(seed.shape)} on {seed.device}"
            )
        return seed
    if seed is None:
        return torch.randint(2**63 - 1, (), dtype=torch.int64).to(device)
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise TypeError(f"seed must be an int, a tensor or None, got {type(seed).__name__}")
    return torch.full((), (int(seed) + 2**63) % 2**64 - 2**63, dtype=torch.int64, device=device)


def selected_coordinates(sparsity: float, x: Tensor) -> int:
    """How many coordinates of a sample of ``x`` an l1 step of this sparsity moves."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, Real) or not 0 < sparsity <= 1:
        raise ValueError(f"sparsity must be in (0, 1], got {sparsity!r}")
    return max(1, math.floor(sparsity * math.prod(x.shape[1:])))


def _step_(
    norm: Norm,
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    step_size: Size,
    eps: Size,
    lower: Size | None,
    upper: Size | None,
    *extra: int,
) -> Tensor:
    check_data(x_adv, "x_adv")
    check_like(grad, x_adv, "grad")
    check_like(x, x_adv, "x")
    step, steps = sized(step_size, "step_size", x_adv, norm)
    radius, radii = sized(eps, "eps", x_adv, norm)
    low, high, lows, highs = box(lower, upper, x_adv)
    check_written(x_adv, "x_adv", grad=grad, x=x, step_size=step_size, eps=eps, lower=lower, upper=upper)

    def write(work: Tensor) -> None:
        steps_, radii_, lows_, highs_ = _laid_out(work, steps, radii, lows, highs)
        near = aligned(grad, work), aligned(x, work)
        _COMPILED[norm](work, *near, step, radius, steps_, radii_, low, high, lows_, highs_, *extra)

    return _in_place(x_adv, write)


def _laid_out(like: Tensor, *values: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else in_layout(t, like) for t in values]


def _in_place(target: Tensor, write: Callable[[Tensor], object]) -> Tensor:
    """Runs ``write`` on ``target``, or on a dense copy that is copied back, so that autograd learns of the change."""
    data = target.detach()
    if samples_dense(data):
        write(data)
        # The dispatcher does not count writes of ops registered through the stable ABI; a compiler sees the schema.
        if not torch.compiler.is_compiling():
            torch.autograd.graph.increment_version(target)
        return target
    work = data.contiguous()
    write(work)
    # outside of inference mode, torch writes a tensor that was made there, and raises afterwards
    with torch.inference_mode() if target.is_inference() else torch.no_grad():
        target.copy_(work)
    return target


def _nothing(*_: object) -> None:
    """The fake kernel of an op that only writes its arguments."""


for _name in ("linf_step_", "l2_step_", "l1_step_", "project_", "best_"):
    torch.library.register_fake(f"fastat::{_name}", _nothing)


@torch.library.register_fake("fastat::random_start")
def _random_start_fake(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("fastat::attack_loss")
def _attack_loss_fake(logits: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape[0], dtype=compute_dtype(logits)), torch.empty_like(logits)


def _save_loss_gradient(ctx: Any, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _attack_loss_backward(ctx: Any, grad_loss: Tensor, _: object) -> tuple[Tensor | None, ...]:
    if torch.is_grad_enabled():
        raise RuntimeError("attack_loss is differentiable once: call backward or autograd.grad without create_graph")
    (grad,) = ctx.saved_tensors
    return (grad_loss.unsqueeze(1) * grad).to(grad.dtype), None, None, None, None


torch.library.register_autograd("fastat::attack_loss", _attack_loss_backward, setup_context=_save_loss_gradient)
