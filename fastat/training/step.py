"""One step of adversarial training: attack a batch, descend the objective there, average the weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastat.data import Batch
from fastat.graphs import recordings as graphs
from fastat.kernels import ops
from fastat.protocols import AttackedBatch, attack_of, objective_of, perturbed_weights
from fastat.support.distributed import mean_, rank_of, size_of
from fastat.support.keyed import derive_seed
from fastat.training.averaging import ema_share, move_average_
from fastat.training.config import TrainConfig
from fastat.training.network import uses_channels_last
from fastat.training.run import NOT_YET, RECORDED, Run
from fastat.training.schedules import learning_rate

ATTACK, _NETWORK = 0xA77, 0x2E7  # purposes in the keys of the attack's random numbers and of dropout's

_STEPS = {"linf": ops.linf_step_, "l2": ops.l2_step_, "l1": ops.l1_step_}


def train_step(run: Run, batch: Batch) -> None:
    """Attacks this process's part of the batch and descends the objective of all of it at the result.

    The gradient is the mean of those of the processes. Where it is not finite the step is skipped: weights, momenta
    and statistics stay, and the loss of the step is recorded as NaN. On a GPU nothing is read back, and in one process
    the whole step is replayed from a CUDA graph where it can be. What the network itself draws, for dropout say, is
    keyed by seed, step and process.
    """
    devices = [run.device] if run.device.type == "cuda" else []
    tensors = _tensors(run, batch)
    run.model.train()
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(run.config.seed, run.global_step, _NETWORK, rank_of(run.group)))
        if run.recording == RECORDED:
            try:
                _replay(run, tensors)
                return
            except graphs.CaptureError as error:
                run.recording = str(error)
        _step(run, tensors, "auto" if run.graph else False)
    if run.recording == NOT_YET and run.graph and run.group is None and run.device.type in graphs.RECORDERS:
        run.recording = RECORDED  # from now on: the first step chose algorithms and made what stays


def rate(run: Run, step: int) -> float:
    """The learning rate of a step of the whole run, counted from 0."""
    return learning_rate(run.config, (step + 0.5) / (run.config.epochs * run.steps_per_epoch))


def _tensors(run: Run, batch: Batch) -> dict[str, Tensor]:
    """All that differs from one step to the next."""
    config, step = run.config, run.global_step

    def number(value: float, dtype: torch.dtype) -> Tensor:
        return torch.full((), value, dtype=dtype, device=run.device)  # made there: a copy would wait

    tensors = {
        "x": batch.x.contiguous(memory_format=_layout(run)),
        "y": batch.y,
        "ids": batch.ids,
        "seed": ops.seed_tensor(derive_seed(config.seed, step, ATTACK), run.device),
        "lr": number(rate(run, step), torch.float32),
        "step": number(run.step, torch.int64),
    }
    if config.ema_decay > 0:
        tensors["share"] = number(ema_share(config.ema_decay, step + 1), torch.float32)
    return tensors


def _layout(run: Run) -> torch.memory_format:
    return torch.channels_last if uses_channels_last(run.config, run.device) else torch.contiguous_format


def _replay(run: Run, tensors: dict[str, Tensor]) -> None:
    def body(tensors: graphs.Tensors) -> graphs.Made:
        _step(run, tensors, False)  # what is recorded with the step needs no recording of its own
        return (), None

    momenta = [state["momentum_buffer"] for state in run.optimizer.state.values() if "momentum_buffer" in state]
    averages = [] if run.average is None else [*run.average.parameters(), *run.average.buffers()]
    delta = [] if run.delta is None else [run.delta]
    written = [*run.model.parameters(), *momenta, *averages, *delta, run.losses, run.hits]
    graphs.run(body, tensors, model=run.network, settings=lambda: ("step", run.config), graph=True, written=written)


def _step(run: Run, tensors: graphs.Tensors, graph: graphs.Graph) -> None:
    """The work of a step: all that differs between steps is in the tensors. With graph the attack may be recorded."""
    config = run.config
    x, y, ids, seed = (tensors[name] for name in ("x", "y", "ids", "seed"))
    for group in run.optimizer.param_groups:
        group["lr"] = tensors["lr"]
    buffers = [buffer for buffer in run.model.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=_uses_bf16(config, run.device)):
        x_adv = _attacked(run, x, y, ids, seed, graph)
        attacked = AttackedBatch(x, x_adv, y, ids, seed, run.group)
        run.model.train()
        objective = partial(objective_of(config), run.network, attacked)
        with perturbed_weights(run.model, lambda: objective()[0], config.awp, run.group):
            loss, logits = objective()
            run.optimizer.zero_grad()
            loss.backward()
            hits = (logits.detach().argmax(1) == y).sum()
            finite = _descend(run, loss.detach().float().clone(), hits.float(), tensors["step"])
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(finite, buffer, old))
    mean_(_batch_statistics(run.model), run.group)  # every process has seen another part of the batch
    if run.delta is not None:
        _move_delta(config, run.delta, x_adv)
    if run.average is not None and config.average == "ema":
        move_average_(run.average, run.model, tensors.get("share", 1.0))


def _attacked(run: Run, x: Tensor, y: Tensor, ids: Tensor, seed: Tensor, graph: graphs.Graph) -> Tensor:
    if run.delta is not None:
        attacked = x + run.delta
        return (attacked.clamp_(0, 1) if run.config.box else attacked).requires_grad_()
    run.model.train(run.config.attack_mode == "train")
    return attack_of(run.config, graph)(run.network, x, y, seed=seed, sample_ids=ids)


def _move_delta(config: TrainConfig, delta: Tensor, x_adv: Tensor) -> None:
    """delta <- clip(delta + step_size sign(gradient), -eps, eps), the gradient that of the weights' own backward pass
    (Shafahi et al., "Adversarial training for free!", NeurIPS 2019, algorithm 1), at the image that is clipped to
    [0, 1]: a pixel that delta pushes out of it can come back."""
    assert x_adv.grad is not None
    step_size = config.eps if config.step_size is None else config.step_size
    gradient = x_adv.grad.to(delta.dtype).contiguous()
    _STEPS[config.norm](delta, gradient, torch.zeros_like(delta), step_size, config.eps, None, None)


def _descend(run: Run, loss: Tensor, hits: Tensor, step: Tensor) -> Tensor:
    """Averages gradients, loss and hits over the processes, records them, and steps if all gradients are finite."""
    parameters = [p for p in run.model.parameters() if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    mean_([*gradients, loss, hits], run.group)
    norm = torch.nn.utils.get_total_norm(gradients)
    finite = norm.isfinite()
    if run.config.clip_grad > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, run.config.clip_grad, norm)
    run.optimizer.found_inf = 1 - finite.float()  # type: ignore[attr-defined]  # what fused SGD skips a step by
    run.optimizer.step()
    run.losses.index_copy_(0, step.view(1), torch.where(finite, loss, torch.nan).view(1))
    run.hits.index_copy_(0, step.view(1), hits.view(1) * size_of(run.group))
    return finite


def _batch_statistics(model: nn.Module) -> list[Tensor]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None]


def _uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"
