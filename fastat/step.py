"""One step of adversarial training: attack a batch, descend the objective there, average the weights."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastat import ops
from fastat.averaging import ema_share, move_average_
from fastat.awp import perturbed_weights
from fastat.config import TrainConfig
from fastat.data import Batch
from fastat.distributed import mean_, rank_of, size_of
from fastat.keyed import derive_seed
from fastat.network import uses_channels_last
from fastat.protocols import AttackedBatch, attack_of, objective_of
from fastat.run import Run
from fastat.schedules import learning_rate

ATTACK, _NETWORK = 0xA77, 0x2E7  # purposes in the keys of the attack's random numbers and of dropout's

_STEPS = {"linf": ops.linf_step_, "l2": ops.l2_step_, "l1": ops.l1_step_}


def train_step(run: Run, batch: Batch) -> None:
    """Attacks this process's part of the batch and descends the objective of all of it at the result.

    The gradient is the mean of those of the processes. Where it is not finite the step is skipped: weights, momenta
    and statistics stay, and the loss of the step is recorded as NaN. On a GPU nothing is read back. What the network
    itself draws, for dropout say, is keyed by seed, step and process.
    """
    devices = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(derive_seed(run.config.seed, run.global_step, _NETWORK, rank_of(run.group)))
        _train_step(run, batch)


def _train_step(run: Run, batch: Batch) -> None:
    config, step = run.config, run.global_step
    for group in run.optimizer.param_groups:
        group["lr"] = learning_rate(config, (step + 0.5) / (config.epochs * run.steps_per_epoch))
    buffers = [buffer for buffer in run.model.buffers() if buffer.is_floating_point()]
    before = [buffer.clone() for buffer in buffers]
    x = batch.x
    if uses_channels_last(config, run.device):
        x = x.contiguous(memory_format=torch.channels_last)
    with torch.autocast(run.device.type, dtype=torch.bfloat16, enabled=_uses_bf16(config, run.device)):
        seed = derive_seed(config.seed, step, ATTACK)
        x_adv = _attacked(run, x, batch, seed)
        attacked = AttackedBatch(x, x_adv, batch.y, batch.ids, seed, run.group)
        run.model.train()
        objective = partial(objective_of(config), run.network, attacked)
        with perturbed_weights(run.model, lambda: objective()[0], config.awp, run.group):
            loss, logits = objective()
            run.optimizer.zero_grad()
            loss.backward()
            hits = (logits.detach().argmax(1) == batch.y).sum()
            finite = _descend(run, loss.detach().float().clone(), hits.float())
    for buffer, old in zip(buffers, before, strict=True):
        buffer.copy_(torch.where(finite, buffer, old))
    mean_(_batch_statistics(run.model), run.group)  # every process has seen another part of the batch
    if run.delta is not None:
        _move_delta(config, run.delta, x_adv)
    if run.average is not None and config.average == "ema":
        move_average_(run.average, run.model, ema_share(config.ema_decay, step + 1))


def _attacked(run: Run, x: Tensor, batch: Batch, seed: int) -> Tensor:
    if run.delta is not None:
        attacked = x + run.delta
        return (attacked.clamp_(0, 1) if run.config.box else attacked).requires_grad_()
    run.model.train(run.config.attack_mode == "train")
    return attack_of(run.config)(run.network, x, batch.y, seed=seed, sample_ids=batch.ids)


def _move_delta(config: TrainConfig, delta: Tensor, x_adv: Tensor) -> None:
    """delta <- clip(delta + step_size sign(gradient), -eps, eps), the gradient that of the weights' own backward pass
    (Shafahi et al., "Adversarial training for free!", NeurIPS 2019, algorithm 1), at the image that is clipped to
    [0, 1]: a pixel that delta pushes out of it can come back."""
    assert x_adv.grad is not None
    step_size = config.eps if config.step_size is None else config.step_size
    gradient = x_adv.grad.to(delta.dtype).contiguous()
    _STEPS[config.norm](delta, gradient, torch.zeros_like(delta), step_size, config.eps, None, None)


def _descend(run: Run, loss: Tensor, hits: Tensor) -> Tensor:
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
    run.losses[run.step] = torch.where(finite, loss, torch.nan)
    run.hits[run.step] = hits * size_of(run.group)
    return finite


def _batch_statistics(model: nn.Module) -> list[Tensor]:
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    return [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None]


def _uses_bf16(config: TrainConfig, device: torch.device) -> bool:
    if config.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"
