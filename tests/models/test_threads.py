"""A model that one thread attacks or evaluates while another trains it."""

import copy
import pickle
import threading
import warnings

import pytest
import torch
from torch import nn

import fastat
from fastat.models import with_features


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3))


X, Y = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])


def in_another_thread(work):
    """What ``work`` returns or raises, and the warnings it gives."""
    found = {}

    def run():
        try:
            found["value"] = work()
        except BaseException as error:
            found["error"] = error

    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    if "error" in found:
        raise found["error"]
    assert {one.filename for one in given} <= {__file__}  # of the line that trains
    return found["value"], [str(one.message) for one in given]


def while_attacked(model, work):
    """Runs ``work`` in another thread in the middle of an attack."""
    found = []

    def loss(output, y):
        if not found:
            found.append(in_another_thread(work))
        return nn.functional.cross_entropy(output, y, reduction="none")

    fastat.pgd(model, X, Y, 0.1, steps=1, loss=loss)
    return found[0]


def test_training_in_another_thread_is_told_that_it_learns_nothing():
    model = network().eval()
    _, messages = while_attacked(model, lambda: model(X).sum().backward())
    assert len(messages) == 1
    assert "another thread attacks it with frozen parameters" in messages[0]
    assert model[0].weight.grad is None  # the reason


@pytest.mark.parametrize(
    "work",
    [
        lambda model: torch.no_grad()(model)(X),
        lambda model: fastat.pgd(model, X, Y, 0.1, steps=1),
        lambda model: torch.autograd.grad(model(X.clone().requires_grad_()).sum(), model[4].weight),
        lambda model: model(input=X.clone().requires_grad_()),
    ],
    ids=["without gradients", "an attack", "of the inputs", "of the inputs by name"],
)
def test_what_takes_no_harm_is_not_warned_of(work):
    model = network().eval()
    assert while_attacked(model, lambda: work(model))[1] == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_made_meanwhile_is_frozen_and_says_so(copied):
    model = network().eval()
    (made, messages) = while_attacked(model, lambda: copied(model))
    assert messages == []
    with pytest.warns(RuntimeWarning, match="this model is a copy, made while another thread attacks it"):
        made(X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made.requires_grad_()(X).sum().backward()
    assert made[0].weight.grad is not None


def test_two_evaluations_at_once_are_both_in_eval_mode():
    """The first one ends while the second one runs, and the mode is put back after that."""
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 3)).train()
    modes, began, ended = [], threading.Event(), threading.Event()

    def long_one(model_, x, y):
        began.set()
        assert ended.wait(60)
        modes.append(model.training)
        return x

    def short_one(model_, x, y):
        assert began.wait(60)
        return x

    def evaluate(attack):
        fastat.evaluate(model, X, Y, 0.1, attacks={"own": attack})

    thread = threading.Thread(target=evaluate, args=(long_one,))
    thread.start()
    evaluate(short_one)
    ended.set()
    thread.join()
    assert modes == [False]
    assert model.training


def test_scripted_models_can_be_attacked_and_evaluated():
    model = torch.jit.script(network().train())
    fastat.evaluate(model, X, Y, 0.1, attacks=("fgsm",))
    assert fastat.pgd(model.eval(), X, Y, 0.1, steps=1).shape == X.shape


def test_an_attack_leaves_no_hook():
    model = network().eval()
    fastat.pgd(model, X, Y, 0.1, steps=2)
    assert not model._forward_pre_hooks
    assert all(p.requires_grad for p in model.parameters())


def test_training_while_another_thread_evaluates_is_told_of_the_mode():
    model = network().train()
    found = []

    def attack(model_, x, y):
        if not found:
            found.append(in_another_thread(lambda: model(X).sum().backward()))
        return x

    fastat.evaluate(model, X, Y, 0.1, attacks={"own": attack})
    assert any("evaluates it in eval mode" in message for message in found[0][1])
    assert model.training


def linear_features(model, x):
    return model(x), x.flatten(1)


@pytest.mark.parametrize("features", [None, "3", linear_features])
def test_a_model_with_features_can_be_pickled(features):
    model = network().eval()
    both = with_features(model, features)
    copied = pickle.loads(pickle.dumps(both))
    for one, other in zip(copied(X), both(X), strict=True):
        assert torch.equal(one, other)
