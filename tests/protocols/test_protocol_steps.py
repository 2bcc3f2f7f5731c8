"""One training step of TRADES, MART, GradAlign, standard training and AWP is that of the textbook code."""

import pytest
import torch
import torch.nn.functional as F
from killing import assert_same_run
from training_cases import config_of

from fastat import fgsm, pgd, random_start
from fastat.protocols.awp import perturbed_weights
from fastat.support.keyed import derive_seed
from fastat.training import open_configured, train_configured
from fastat.training.loop import take_step
from fastat.training.schedules import schedule_of
from fastat.training.step import ATTACK

ROWS = torch.arange(10, 42)


def attacked(config, model, x, y, keys):
    model.eval()
    if config.method.attack == "none":
        return x
    if config.method.attack == "fgsm":
        return fgsm(model, x, y, config.threat.eps)
    if config.method.attack == "pgd-kl":
        start = random_start(x, 1e-3, "linf", keys["seed"], keys["sample_ids"])
        return pgd(model, x, y, config.threat.eps, steps=2, loss="kl", start=start)
    return pgd(model, x, y, config.threat.eps, steps=2, **keys)


def cross_entropy(model, x, x_adv, y, keys):
    return F.cross_entropy(model(x_adv), y)


def trades(model, x, x_adv, y, keys):
    """As the authors write it, with beta 6."""
    clean = model(x)
    return F.cross_entropy(clean, y) + 6 * F.kl_div(
        model(x_adv).log_softmax(1), clean.softmax(1), reduction="sum"
    ) / len(y)


def mart(model, x, x_adv, y, keys):
    """As the authors write it, with lambda 5 and without their small constants."""
    p, q = model(x).softmax(1), model(x_adv).softmax(1)
    ranked = q.argsort(dim=1)[:, -2:]
    other = torch.where(ranked[:, -1] == y, ranked[:, -2], ranked[:, -1])
    rows = torch.arange(len(y))
    boosted = F.nll_loss(q.log(), y) + F.nll_loss((1 - q).log(), other)
    return boosted + 5 * (F.kl_div(q.log(), p, reduction="none").sum(1) * (1 - p[rows, y])).mean()


def gradalign(model, x, x_adv, y, keys):
    loss = F.cross_entropy(model(x_adv), y)
    gradients = []
    for point, create in ((x, False), (random_start(x, 0.1, "linf", **keys), True)):
        leaf = point.clone().requires_grad_()
        one = torch.autograd.grad(F.cross_entropy(model(leaf), y), leaf, create_graph=create)[0]
        gradients.append(one.flatten(1))
    return loss + 0.2 * (1 - F.cosine_similarity(*gradients)).mean()


@pytest.mark.parametrize(
    ("protocol", "textbook", "awp"),
    [
        ("standard", cross_entropy, 0.0),
        ("trades", trades, 0.0),
        ("mart", mart, 0.0),
        ("gradalign", gradalign, 0.0),
        ("pgd-at", cross_entropy, 0.005),
        ("trades", trades, 0.01),
    ],
)
def test_one_step_is_the_textbook(tmp_path, protocol, textbook, awp):
    config = config_of(protocol, awp=awp, attack_mode="eval")
    run = open_configured(config, tmp_path / "run", None, torch.device("cpu"))
    take_step(run, next(run.images.train_set.batches(ROWS, 32)))

    other = open_configured(config, tmp_path / "other", None, torch.device("cpu"))
    model, batch = other.learner.model, other.images.train_set.take(ROWS)
    x, y = batch.images.float() / 16, batch.labels
    keys = {"seed": derive_seed(config.run.seed, 0, ATTACK), "sample_ids": batch.ids}
    x_adv = attacked(config, model, x, y, keys)
    parameters = list(model.parameters())
    model.train()
    shifts = [torch.zeros_like(p) for p in parameters]
    if awp:
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        for i, (p, g) in enumerate(
            zip(parameters, torch.autograd.grad(textbook(model, x, x_adv, y, keys), parameters), strict=True)
        ):
            if p.dim() > 1:
                shifts[i] = awp * p.detach().norm() / g.norm() * g
        for name, buffer in model.named_buffers():
            buffer.copy_(before[name])
        for p, shift in zip(parameters, shifts, strict=True):
            p.data += shift
    gradients = torch.autograd.grad(textbook(model, x, x_adv, y, keys), parameters)
    lr = config.optimizer.lr * schedule_of(config.optimizer).rate(0.5 / 6)
    after = dict(run.learner.model.named_parameters())
    for (name, p), g, shift in zip(model.named_parameters(), gradients, shifts, strict=True):
        expected = p.detach() - lr * (g + config.optimizer.weight_decay * p.detach()) - shift
        torch.testing.assert_close(after[name].detach(), expected, rtol=2e-5, atol=1e-6)
    for (name, buffer), (_, ours) in zip(model.named_buffers(), run.learner.model.named_buffers(), strict=True):
        torch.testing.assert_close(ours, buffer, msg=name)


def test_weights_and_statistics_come_back_from_a_perturbation():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    x, y = torch.randn(8, 3), torch.randint(2, (8,))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with perturbed_weights(model, lambda: F.cross_entropy(model(x), y), 0.1):
        moved = model[0].weight.detach().clone()
        assert (moved - before["0.weight"]).norm().item() == pytest.approx(
            0.1 * before["0.weight"].norm().item(), rel=1e-4
        )
        assert torch.equal(model[0].bias, before["0.bias"]) and torch.equal(model[1].weight, before["1.weight"])
        assert int(model[1].num_batches_tracked) == 0
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-6)


def test_a_stopped_run_goes_on_as_if_nothing_had_happened(tmp_path):
    config = config_of("trades", awp=0.005, train_size=64)
    train_configured(config, tmp_path / "whole")

    def interrupt(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_configured(config, tmp_path / "stopped", measure=interrupt)
    train_configured(config, tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
