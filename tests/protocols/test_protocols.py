"""Protocols: a step of each is its textbook, whatever attack it is put on; titles say what was trained."""

from typing import get_args

import pytest
import torch
from killing import assert_resumes, state_of
from torch import Tensor
from training_cases import config_of, protocol_of, textbook_benign

from fastat import fgsm, pgd
from fastat.kernels import reference
from fastat.protocols import PROTOCOLS, AttackName, ProtocolName
from fastat.support.keyed import derive_seed
from fastat.training import (
    TrainConfig,
    check_config,
    default_config,
    describe_training,
    load_network,
    open_configured,
    record_of,
    train_configured,
    with_fields,
)
from fastat.training.loop import take_step
from fastat.training.schedules import schedule_of
from fastat.training.step import ATTACK


def test_every_protocol_is_a_valid_configuration():
    assert tuple(PROTOCOLS) == get_args(ProtocolName)
    for protocol in PROTOCOLS:
        for data in ("digits", "mnist", "cifar10"):
            check_config(default_config(data, protocol))
    assert default_config("digits") == TrainConfig()
    assert default_config("mnist", "hr").threat.eps == 0.3
    with pytest.raises(ValueError, match=r"protocol must be one of standard, .*, got 'hrr'"):
        default_config("digits", "hrr")


def test_any_attack_goes_with_any_objective():
    for protocol in ("trades", "mart", "hr", "bat"):
        for attack in get_args(AttackName):
            check_config(default_config("digits", protocol, attack=attack))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_fields(TrainConfig(), protocol="hr"), "objective must be holistic under protocol hr .*, got 'mean'"),
        (with_fields(TrainConfig(), protocol="n-fgsm"), "attack must be n-fgsm under protocol n-fgsm .*, got 'pgd'"),
        (default_config("digits", "bat", objective="holistic"), "objective must be benign .*, got 'holistic'"),
    ],
)
def test_a_configuration_is_what_its_protocol_says(config, message):
    with pytest.raises(ValueError, match=message):
        check_config(config)


@pytest.mark.parametrize(
    ("attack", "options"),
    [
        ("fgsm", {"step_size": 0.1}),
        ("rs-fgsm", {"step_size": 0.125, "noise": 1}),
        ("n-fgsm", {"step_size": 0.1, "noise": 2, "clip": False}),
    ],
)
def test_single_step_attacks_are_those_of_their_papers(attack, options):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
    x, y, ids = torch.rand(6, 1, 4, 4), torch.arange(6) % 3, torch.arange(6)
    found = protocol_of(config_of("hr", attack=attack)).attack(model, x, y, seed=5, sample_ids=ids)
    assert found.equal(fgsm(model, x, y, 0.1, seed=5, sample_ids=ids, **options))
    assert not found.equal(x)
    config = config_of("pgd-at", attack=attack, step_size=0.01)
    shorter = protocol_of(config).attack(model, x, y, seed=5, sample_ids=ids)
    assert shorter.equal(fgsm(model, x, y, 0.1, seed=5, sample_ids=ids, **{**options, "step_size": 0.01}))


def textbook_holistic(config: TrainConfig, logits: Tensor, features: Tensor, y: Tensor) -> Tensor:
    """Weights from the float64 solution, constants for autograd."""
    losses = -logits.log_softmax(1)[torch.arange(len(y)), y]
    weights = reference.holistic_weights(
        losses.detach().double(), config.method.alpha, config.method.r, config.method.order
    )
    assert float(weights.max()) > 2 / len(y)  # else the plain mean would pass as well
    return (weights.to(losses.dtype) * losses).sum()


@pytest.mark.parametrize(
    ("config", "textbook"),
    [
        (config_of("hr", alpha=0.1, r=0.2), textbook_holistic),
        (config_of("hr", order="hr", attack="n-fgsm"), textbook_holistic),
        (config_of("bat", gamma=2.0, beta=0.3), textbook_benign),
        (config_of("bat", attack="rs-fgsm", label_noise=0.2), textbook_benign),
    ],
)
def test_one_step_is_the_textbook(tmp_path, config, textbook):
    run = open_configured(config, tmp_path / "run", None, torch.device("cpu"))
    index = torch.arange(10, 42)
    take_step(run, next(run.images.train_set.batches(index, 32)))
    after = run.learner.model.state_dict()

    other = open_configured(config, tmp_path / "other", None, torch.device("cpu"))
    model, batch = other.learner.model, other.images.train_set.take(index)
    x, y = batch.images.float() / 16, batch.labels
    keys = {"seed": derive_seed(config.run.seed, 0, ATTACK), "sample_ids": batch.ids}
    step = {"pgd": (pgd, {"steps": 2}), "n-fgsm": (fgsm, {"noise": 2, "clip": False})}
    step["rs-fgsm"] = (fgsm, {"noise": 1, "step_size": 1.25 * config.threat.eps})
    attack, options = step[config.method.attack]
    x_adv = attack(model.eval(), x, y, config.threat.eps, **options, **keys)
    model.train()
    normalized = (x_adv - model.mean) / model.std
    features = model.model[:5](normalized)
    loss = textbook(config, model.model[5](features), features, y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    lr = config.optimizer.lr * schedule_of(config.optimizer).rate(0.5 / 6)
    for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
        expected = parameter - lr * (gradient + config.optimizer.weight_decay * parameter)
        torch.testing.assert_close(after[name], expected.detach(), rtol=1e-5, atol=1e-7)
    assert float(run.state.current.marks.losses[0]) == pytest.approx(loss.item(), rel=1e-5)


def test_hr_without_budgets_is_plain_training(tmp_path, in_double):
    train_configured(config_of("hr", alpha=0.0, r=0.0), tmp_path / "hr")
    train_configured(config_of("pgd-at", attack_mode="eval"), tmp_path / "plain")
    one, other = state_of(tmp_path / "hr"), state_of(tmp_path / "plain")
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=1e-10)


@pytest.mark.parametrize("protocol", ["hr", "bat"])
def test_resumed_to_the_bit(tmp_path, monkeypatch, protocol):
    config = config_of(protocol, attack="n-fgsm", label_noise=0.1, width=8, schedule="multistep")
    assert_resumes(monkeypatch, config, tmp_path, 4)
    assert load_network(tmp_path / "killed").record == record_of(config)


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (TrainConfig(), "PGD-10 adversarial training"),
        (default_config("digits", "n-fgsm"), "N-FGSM adversarial training"),
        (default_config("digits", "hr", attack="rs-fgsm", order="hr"), "HR (alpha 0.05, r 0.1, order hr) on RS-FGSM"),
        (
            default_config("digits", "bat", label_noise=0.1, attack_steps=7),
            "BAT (gamma 1, beta 0.2) on PGD-7, 10% of the training labels flipped",
        ),
    ],
)
def test_titles_say_what_was_trained(config, text):
    assert describe_training(config) == text


@pytest.mark.parametrize("protocol", ["hr", "bat"])
def test_bf16(tmp_path, protocol):
    network = train_configured(config_of(protocol, precision="bf16", epochs=1), tmp_path)
    assert network.history[0]["train"]["loss"] > 0
