"""A protocol is a value: made by name or of parts, compared, printed, pickled, and plain data."""

import itertools
import json
import pickle
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_cases import config_of, protocol_of

import fastat
from fastat import Protocol
from fastat.protocols import (
    PROTOCOLS,
    Attack,
    AttackName,
    Benign,
    CrossEntropy,
    Holistic,
    LossName,
    Mart,
    Mean,
    ObjectiveName,
    Trades,
)
from fastat.training import describe_training

EPS = 8 / 255


@pytest.mark.parametrize("name", list(PROTOCOLS))
def test_a_name_is_what_the_configuration_of_that_name_descends(name):
    config = config_of(name)
    options = {"steps": 2} if config.method.attack.startswith("pgd") else {}
    assert fastat.protocol(name, eps=0.1, **options) == protocol_of(config)
    assert str(fastat.protocol(name, eps=0.1, **options)) == describe_training(config)


def test_options_go_to_the_part_that_has_them():
    found = fastat.protocol(
        "trades", eps=EPS, norm="l2", bounds=None, beta=3, label_smoothing=0.1, steps=7, mode="train", awp=0.01
    )
    assert found == Protocol(
        Attack("pgd-kl", eps=EPS, norm="l2", bounds=None, steps=7), Trades(3, 0.1), Mean(), awp=0.01
    )
    found = fastat.protocol("hr", eps=EPS, attack="n-fgsm", loss=Mart(lam=2), alpha=0.1, grad_align=0.2)
    assert found == Protocol(Attack("n-fgsm", eps=EPS, mode="eval"), Mart(2), Holistic(alpha=0.1), grad_align=0.2)
    assert fastat.protocol("bat", eps=EPS, loss="trades", gamma=2).objective == Benign(gamma=2)
    assert Protocol(Attack(eps=EPS), "mart", "benign") == Protocol(Attack("pgd", eps=EPS), Mart(), Benign())


def combinations():
    parts = itertools.product(get_args(AttackName), get_args(LossName), get_args(ObjectiveName))
    for attack, loss, objective in parts:
        made = fastat.protocol("pgd-at", eps=EPS, attack=attack, loss=loss, objective=objective)
        yield made
        yield replace(made, grad_align=0.2, awp=0.005)


def test_all_combinations_are_values_and_plain_data():
    seen = set()
    for one in combinations():
        assert Protocol.from_dict(json.loads(json.dumps(one.as_dict()))) == one
        again = pickle.loads(pickle.dumps(one))
        assert again == one and hash(again) == hash(one)
        assert eval(repr(one), {**vars(fastat.protocols)}) == one  # the text is what makes it
        seen.add(one)
    assert len(seen) == 7 * 3 * 3 * 2
    with pytest.raises(FrozenInstanceError):
        one.awp = 1.0


def test_numbers_of_numpy_and_lists_are_plain_ones():
    attack = Attack("pgd", eps=np.float32(0.5), steps=np.int64(3), step_size=np.float64(0.1), bounds=[0, 1])
    assert attack == Attack("pgd", eps=0.5, steps=3, step_size=0.1) and hash(attack)
    assert json.dumps(Protocol(attack).as_dict())


def own_loss(output, y):
    return F.mse_loss(output, y, reduction="none").mean(1)


def own_attack(model, x, y):
    return x + 1


def own_objective(losses):
    return losses.amax()


def test_functions_of_ones_own():
    protocol = Protocol(own_attack, own_loss, own_objective)
    assert str(protocol) == "own_objective on own_loss on own_attack"
    assert pickle.loads(pickle.dumps(protocol)) == protocol
    model = torch.nn.Linear(3, 2)
    x, y = torch.randn(5, 3), torch.randn(5, 2)
    loss = protocol(model, x, y)
    assert torch.equal(loss, (model(x + 1) - y).square().mean(1).max())
    loss.backward()
    for changes, part in (({}, "attack"), ({"attack": Attack(eps=1)}, "loss")):
        with pytest.raises(TypeError, match=f"{part} is a function of one's own, which is no plain data"):
            replace(protocol, **changes).as_dict()


def test_one_part_of_ones_own_goes_with_those_of_the_library():
    model = torch.nn.Linear(3, 4).double()
    x, y = torch.rand(6, 3, dtype=torch.float64), torch.arange(6) % 4

    def squared(output, y):
        return (output.softmax(1) - F.one_hot(y, 4)).square().sum(1)

    for objective in ("mean", "holistic"):
        protocol = fastat.protocol("pgd-at", eps=0.1, loss=squared, objective=objective)
        found = protocol.outcome(model, x, y, seed=3)
        assert torch.equal(found.x_adv, fastat.pgd(model, x, y, 0.1, seed=3))
        losses = squared(model(found.x_adv), y)
        expected = losses.mean() if objective == "mean" else fastat.holistic_loss(losses, 0.05, 0.1)
        torch.testing.assert_close(found.loss, expected)
    found = fastat.protocol("pgd-at", eps=0.1, objective=own_objective).outcome(model, x, y)
    torch.testing.assert_close(found.loss, F.cross_entropy(model(found.x_adv), y, reduction="none").max())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fastat.protocol("tradse", eps=1), ValueError, "got 'tradse'; did you mean 'trades'?"),
        (lambda: fastat.protocol("trades"), TypeError, "eps is missing"),
        (
            lambda: fastat.protocol("trades", eps=1, attack=own_attack),
            TypeError,
            "eps is not used by an attack of one's",
        ),
        (
            lambda: fastat.protocol("trades", eps=1, attack=Attack(eps=2)),
            TypeError,
            "attack has an eps and a norm of its",
        ),
        (lambda: fastat.protocol("fgsm-at", eps=1, steps=5), TypeError, "protocol 'fgsm-at' has no option 'steps'"),
        (lambda: fastat.protocol("pgd-at", eps=1, replays=5), TypeError, "protocol 'pgd-at' has no option 'replays'"),
        (lambda: Benign(features=3), TypeError, "features must be the name of a module, got 3"),
        (
            lambda: Protocol.from_dict({"attack": {"eps": 1}, "loss": {"name": ["x"]}}),
            ValueError,
            "loss must have a name",
        ),
        (lambda: fastat.protocol("trades", eps=1, betta=2), TypeError, "no option 'betta'.*did you mean 'beta'"),
        (lambda: fastat.protocol("pgd-at", eps=1, alpha=0.1), TypeError, "protocol 'pgd-at' has no option 'alpha'"),
        (
            lambda: fastat.protocol("bat", eps=1, loss="trades", beta=2),
            TypeError,
            r"beta is an option of two parts here: pass Trades\(beta=...\) and Benign\(beta=...\) as loss",
        ),
        (lambda: fastat.protocol("pgd-at", eps=1, loss="hinge"), ValueError, "loss must be one of .*, got 'hinge'"),
        (lambda: fastat.protocol("pgd-at", eps=1, attack="ddn"), ValueError, "attack must be one of .*, got 'ddn'"),
        (lambda: Protocol("pgd"), TypeError, r"attack must be an Attack, as Attack\('pgd', eps=8 / 255\)"),
        (lambda: Protocol(Attack(eps=1), 3), TypeError, "loss must be one of .* or a function, got 3"),
        (
            lambda: Protocol(Attack(eps=1), Trades),
            TypeError,
            "loss must be one of .*, an object of theirs or a function",
        ),
        (lambda: Protocol(Attack(eps=-1)), ValueError, "eps must be a finite number >= 0, got -1"),
        (lambda: Protocol(Attack(eps="8")), TypeError, "eps must be a number, got str"),
        (lambda: Attack(eps=1, steps=0), ValueError, "steps must be at least 1, got 0"),
        (lambda: Attack(eps=1, steps=1.5), TypeError, "steps must be an integer, got 1.5"),
        (lambda: Attack(eps=1, step_size=0), ValueError, "step_size must be a finite number above 0, got 0"),
        (lambda: Attack(eps=1, mode="test"), ValueError, "mode must be one of eval, train, got 'test'"),
        (lambda: Attack(eps=1, norm="l3"), ValueError, "norm must be one of linf, l2, l1, got 'l3'"),
        (lambda: Holistic(alpha=1), ValueError, r"alpha must be in \[0, 1\), got 1"),
        (lambda: Benign(tau=0), ValueError, "tau must be a finite number above 0, got 0"),
        (lambda: CrossEntropy(1.0), ValueError, r"label_smoothing must be in \[0, 1\), got 1.0"),
        (lambda: Protocol(own_attack, grad_align=0.2), ValueError, "grad_align takes eps and bounds from an Attack"),
        (lambda: Protocol.from_dict([]), ValueError, r"a protocol must be an object of fields, got \[\]"),
        (lambda: Protocol.from_dict({"atack": {}}), ValueError, "a protocol has no atack; it has attack, awp"),
        (lambda: Protocol.from_dict({"attack": {"eps": 1, "radius": 2}}), ValueError, "attack has no radius; it has"),
        (
            lambda: Protocol.from_dict({"attack": {"eps": 1}, "loss": {"beta": 1}}),
            ValueError,
            "loss must have a name, one of cross-entropy, trades, mart, got {'beta': 1}",
        ),
        (lambda: Protocol.from_dict({"attack": {}}), TypeError, "eps"),
    ],
)
def test_errors_name_what_is_wrong(make, error, message):
    with pytest.raises(error, match=message):
        make()
