"""Losses, objectives and extras that the table of protocols does not name, against plain PyTorch."""

from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from training_cases import config_of, protocol_of, textbook_benign

from fastat.kernels import reference
from fastat.objectives import trades_loss
from fastat.training import describe_training, open_configured, train_configured, with_fields
from fastat.training.loop import take_step


class Attacked(NamedTuple):
    x: torch.Tensor
    x_adv: torch.Tensor
    y: torch.Tensor


def descended(config, model, batch):
    """Loss and logits of the protocol where its attack has found what is in the batch."""
    protocol = replace(protocol_of(config), attack=lambda model, x, y: batch.x_adv)
    return protocol.outcome(model, batch.x, batch.y)[:2]


def batch_and_model():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.Tanh(), nn.Linear(20, 10))
    x, y = torch.rand(24, 1, 4, 4), torch.randint(10, (24,))
    return model, Attacked(x, (x + 0.1 * torch.randn_like(x)).clamp(0, 1), y)


def gradients(loss, model):
    return torch.autograd.grad(loss, list(model.parameters()))


def same_gradients(config, expected):
    model, batch = batch_and_model()
    loss, logits = descended(config, model, batch)
    found = expected(model, batch)
    torch.testing.assert_close(loss, found, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(logits, model(batch.x_adv))
    for one, other in zip(gradients(loss, model), gradients(found, model), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def trades_of_each(model, batch, smoothing=0.0):
    clean, adversarial = model(batch.x), model(batch.x_adv)
    divergence = F.kl_div(adversarial.log_softmax(1), clean.softmax(1), reduction="none").sum(1)
    return F.cross_entropy(clean, batch.y, reduction="none", label_smoothing=smoothing) + 6 * divergence


def test_bat_with_trades():
    config = config_of("bat", loss="trades", attack="pgd-kl", gamma=2.0, beta=0.3)

    def expected(model, batch):
        plain = textbook_benign(with_fields(config, beta=0.0), model(batch.x_adv), model[:3](batch.x_adv), batch.y)
        whole = textbook_benign(config, model(batch.x_adv), model[:3](batch.x_adv), batch.y)
        probabilities = model(batch.x_adv).detach().softmax(1)
        wrong = probabilities.argmax(1) != batch.y
        largest = probabilities.scatter(1, batch.y[:, None], 0).amax(1)
        weights = torch.where(wrong, torch.exp(-2 * largest), 1.0)
        return (weights * trades_of_each(model, batch)).sum() / weights.sum() + (whole - plain)

    same_gradients(config, expected)


@pytest.mark.parametrize("loss", ["trades", "mart"])
def test_hr_of_losses_with_the_clean_images(loss):
    config = config_of("hr", loss=loss, alpha=0.1, r=0.2)

    def expected(model, batch):
        plain = with_fields(config, objective="mean", protocol="pgd-at")
        losses = []
        for i in range(len(batch.y)):
            one = replace_rows(batch, i)
            losses.append(descended(plain, model, one)[0])
        losses = torch.stack(losses)
        weights = reference.holistic_weights(losses.detach().double(), 0.1, 0.2, "hd")
        return (weights.float() * losses).sum()

    same_gradients(config, expected)


def replace_rows(batch, i):
    return Attacked(*(t[i : i + 1] for t in batch))


def test_label_smoothing_is_in_the_cross_entropy_alone():
    def crossed(model, batch):
        return F.cross_entropy(model(batch.x_adv), batch.y, label_smoothing=0.2)

    same_gradients(config_of("pgd-at", label_smoothing=0.2), crossed)
    same_gradients(config_of("trades", label_smoothing=0.2), lambda m, b: trades_of_each(m, b, 0.2).mean())

    def reweighted(model, batch):
        losses = F.cross_entropy(model(batch.x_adv), batch.y, reduction="none", label_smoothing=0.2)
        weights = reference.holistic_weights(losses.detach().double(), 0.05, 0.1, "hd")
        return (weights.float() * losses).sum()

    same_gradients(config_of("hr", label_smoothing=0.2), reweighted)


def test_reduction_has_two_values():
    logits, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert trades_loss(logits, logits + 1, y, reduction="none").shape == (4,)
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'none', got 'sum'"):
        trades_loss(logits, logits, y, reduction="sum")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"loss": "trades", "attack": "pgd-kl"}, "BAT (gamma 1, beta 0.2) on TRADES (beta 6) on PGD-2"),
        ({"attack": "free", "average": "ema"}, "BAT (gamma 1, beta 0.2) on Free (m = 8) with EMA"),
        ({"awp": 0.005}, "BAT (gamma 1, beta 0.2) on PGD-2 with AWP (0.005)"),
    ],
)
def test_titles(changes, text):
    assert describe_training(config_of("bat", **changes)) == text


def step_of(config, folder):
    run = open_configured(config, folder, None, torch.device("cpu"))
    before = [p.detach().clone() for p in run.learner.model.parameters()]
    take_step(run, next(run.images.train_set.batches(torch.arange(32), 32)))
    return [old - p.detach() for old, p in zip(before, run.learner.model.parameters(), strict=True)], run


def test_weight_decay_and_its_exemptions(tmp_path):
    base = {"protocol": "standard", "momentum": 0.0, "schedule": "cosine"}
    without, _ = step_of(config_of(**base, weight_decay=0.0), tmp_path / "a")
    all_of_them, run = step_of(config_of(**base, weight_decay=0.1), tmp_path / "b")
    exempt, _ = step_of(config_of(**base, weight_decay=0.1, exempt_norm_and_bias=True), tmp_path / "c")
    for p, none, every, some in zip(run.learner.model.parameters(), without, all_of_them, exempt, strict=True):
        decayed = p.dim() > 1
        torch.testing.assert_close(some, every if decayed else none)
    assert not torch.allclose(without[1], all_of_them[1])  # the scale of a batch norm is 1 at the start


def test_clipped_gradients_keep_their_direction(tmp_path):
    base = {"protocol": "standard", "momentum": 0.0, "weight_decay": 0.0}
    free, _ = step_of(config_of(**base), tmp_path / "a")
    short, run = step_of(config_of(**base, clip_grad=0.01), tmp_path / "b")
    lr = float(run.learner.optimizer.param_groups[0]["lr"])
    length = torch.cat([value.flatten() for value in short]).norm()
    assert float(length) == pytest.approx(0.01 * lr, rel=1e-2)
    scale = length / torch.cat([value.flatten() for value in free]).norm()
    torch.testing.assert_close(
        torch.cat([v.flatten() for v in short]), scale * torch.cat([v.flatten() for v in free]), rtol=1e-2, atol=1e-7
    )


def test_attack_in_train_mode_moves_the_statistics(tmp_path):
    _, train_mode = step_of(config_of("rs-fgsm"), tmp_path / "a")
    _, eval_mode = step_of(config_of("rs-fgsm", attack_mode="eval"), tmp_path / "b")
    counts = [int(run.learner.model.state_dict()["model.0.0.1.num_batches_tracked"]) for run in (train_mode, eval_mode)]
    assert counts == [2, 1]


def test_validation_images_are_set_apart_and_the_same_for_every_seed(tmp_path):
    runs = [
        open_configured(
            config_of("pgd-at", seed=seed, train_size=None), tmp_path / str(seed), None, torch.device("cpu")
        )
        for seed in range(2)
    ]
    first, second = (run.images for run in runs)
    assert first.val_set.ids.equal(second.val_set.ids)
    assert not set(first.val_set.ids.tolist()) & set(first.train_set.ids.tolist())
    assert len(first.val_set) + len(first.train_set) == 1438


def test_a_compiled_network_trains_like_itself(tmp_path, in_double):
    config = config_of("trades", epochs=1, train_size=64, model="mlp", width=16, grad_align=0.1)
    plain = train_configured(config, tmp_path / "plain")
    compiled = train_configured(with_fields(config, compile=True), tmp_path / "compiled")
    for one, other in zip(plain.model.parameters(), compiled.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_channels_last(tmp_path):
    config = config_of("pgd-at", epochs=1, channels_last="on")
    network = train_configured(config, tmp_path / "run")
    weight = network.model.model[1][0][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
