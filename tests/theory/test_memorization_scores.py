"""Memorization and influence: the formulas, the stacked training, resumption."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from killing import Killed, kill_at_write
from torch import nn

from fastat import data
from fastat.data import Split
from fastat.evaluation import evaluate
from fastat.support.keyed import keyed_permutation
from fastat.theory.memorization import (
    Outcomes,
    Recipe,
    ensemble,
    estimate,
    estimation,
    figures,
    load,
    score,
    seconds_spent,
    small_mlp,
)
from fastat.theory.memorization.groups import group_measure, split_test
from fastat.training import TrainConfig

QUICK = Recipe(epochs=3, batch_size=16, lr=0.1)


def small_cnn() -> nn.Module:
    """A convolution and a group norm: what becomes of layers other than linear ones."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )


def some_digits(n_train: int = 60, n_test: int = 30) -> Split:
    split = data.load("digits")
    return Split(split.train.subset(n_train, 0), split.test.subset(n_test, 0))


def random_outcomes(k: int, n: int, m: int) -> Outcomes:
    rng = np.random.default_rng(0)
    return Outcomes(rng.random((k, n)) < 0.7, rng.random((k, n)) < 0.6, rng.random((k, m)) < 0.6)


def score_alone(outcomes: Outcomes):
    return score(outcomes, np.arange(outcomes.member.shape[1]), np.arange(outcomes.test_correct.shape[1]))


def test_scores_by_hand():
    member = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], bool)
    train_correct = np.array([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]], bool)
    test_correct = np.array([[1, 0], [1, 1], [0, 1], [0, 0]], bool)
    found = score(Outcomes(member, train_correct, test_correct), np.array([5, 6, 7]), np.array([8, 9]))
    # sample 0: right in both networks with it, in one of two without; sample 1: all three, none; sample 2 is never in
    np.testing.assert_allclose(found.memorization, [0.5, 1.0, np.nan])
    np.testing.assert_allclose(found.influence, [[1, 0], [1 / 3 - 1, 1 / 3 - 1], [np.nan, np.nan]], rtol=1e-6)
    # (hits + 1) / (n + 2): 3/4 and 2/4 over 4 networks each; 4/5 over 5 and 1/3 over 3
    expected = [(3 / 64 + 4 / 64) ** 0.5, (4 / 125 + 2 / 27) ** 0.5, np.nan]
    np.testing.assert_allclose(found.memorization_error, expected)
    assert found.times_in.tolist() == [2, 3, 0]
    assert found.subset_accuracy.tolist() == [1, 1, 1, 1]
    assert found.held_out_accuracy.tolist() == [1, 0.5, 0, 1]
    assert found.test_accuracy.tolist() == [0.5, 1, 0.5, 0]
    assert found.atypical_train(0.7).tolist() == [False, True, False]
    assert found.atypical_train(0.4).tolist() == [True, True, False]
    # at 0.7 the large influence of sample 0 does not count: the sample is typical itself
    assert found.atypical_test(0.7).tolist() == [False, False]
    assert found.atypical_test(0.4).tolist() == [True, False]
    assert found.atypical_test(1.0).tolist() == [False, False]


def test_influence_is_that_of_a_loop_and_blocks_do_not_show(monkeypatch):
    outcomes = random_outcomes(30, 23, 11)
    found = score_alone(outcomes)
    for i in range(23):
        inside = outcomes.member[:, i]
        difference = outcomes.test_correct[inside].mean(0) - outcomes.test_correct[~inside].mean(0)
        np.testing.assert_allclose(found.influence[i], difference, atol=1e-6)
    monkeypatch.setattr("fastat.theory.memorization.scores._ROWS_AT_ONCE", 5)
    np.testing.assert_array_equal(score_alone(outcomes).influence, found.influence)


def test_by_chance_is_all_there_is_in_random_outcomes():
    found = score_alone(random_outcomes(60, 400, 200))
    by_chance = found.by_chance()
    assert by_chance == found.by_chance()
    assert by_chance[0] == pytest.approx(found.atypical_train().sum(), rel=0.25)
    assert by_chance[1] == pytest.approx(found.atypical_test().sum(), rel=0.25)


def test_networks_trained_at_once_are_those_trained_one_by_one():
    """The same subsets, weights and orders, with plain modules and PyTorch's SGD."""
    split = some_digits()
    found = estimate(split, small_cnn, 5, 0.7, recipe=QUICK, seed=3, models_at_once=3)
    x, y, ids = split.train.pixels(), split.train.labels, split.train.ids
    rows = []
    for index in range(5):
        members = ensemble.subset(ids, 42, 3, index)
        model = ensemble.initial_network(small_cnn, 3, index)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        for epoch in range(3):
            order = ensemble.batch_order(ids, members, 3, index, epoch)
            assert order.sort().values.equal(members)
            for step, batch in enumerate(order[:32].split(16)):
                optimizer.param_groups[0]["lr"] = ensemble.learning_rate(QUICK, (2 * epoch + step + 0.5) / 6)
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
        rows.append(model)
        inside = torch.zeros(60, dtype=torch.bool)
        inside[members] = True
        assert found.outcomes.member[index].tolist() == inside.tolist()
    with torch.no_grad():
        train_correct = torch.stack([model(x).argmax(1) == y for model in rows])
        test_correct = torch.stack([model(split.test.pixels()).argmax(1) == split.test.labels for model in rows])
    slow = score_alone(Outcomes(found.outcomes.member, train_correct.numpy(), test_correct.numpy()))
    np.testing.assert_allclose(found.memorization, slow.memorization)
    np.testing.assert_allclose(found.influence, slow.influence)

    some = [ensemble.subset(ids, 42, 3, index) for index in (1, 4)]
    together = ensemble.train_networks(small_cnn, split.train, some, (1, 4), QUICK, 3, lambda epoch: None)
    for name, stacked in together.parameters.items():
        for row, index in enumerate((1, 4)):
            torch.testing.assert_close(stacked[row], rows[index].get_parameter(name), rtol=1e-4, atol=1e-5)


def test_subsets_and_orders_depend_on_seed_index_and_ids_alone():
    ids = torch.arange(100, 200)
    subsets = [ensemble.subset(ids, 70, 0, index) for index in range(3)]
    assert all(len(one.unique()) == 70 and not one.equal(other) for one, other in pairwise(subsets))
    assert not ensemble.subset(ids, 70, 1, 0).equal(subsets[0])
    mixed = keyed_permutation(100, 5)
    again = ensemble.subset(ids[mixed], 70, 0, 0)
    assert ids[mixed][again].sort().values.equal(ids[subsets[0]])
    orders = [ensemble.batch_order(ids, subsets[0], 0, 0, epoch) for epoch in range(2)]
    assert not orders[0].equal(orders[1])

    split = some_digits()
    members = [
        estimate(split, small_mlp, 7, recipe=QUICK, models_at_once=at_once).outcomes.member for at_once in (1, 3, 7)
    ]
    assert (members[0] == members[1]).all() and (members[0] == members[2]).all()
    assert (members[0].sum(1) == 42).all()
    before = torch.get_rng_state()
    estimate(split, small_mlp, 2, recipe=QUICK)
    assert torch.get_rng_state().equal(before)


def test_mislabelled_samples_are_memorized():
    split = some_digits(400, 100)
    wrong = keyed_permutation(400, 1)[:20]
    labels = split.train.labels.clone()
    labels[wrong] = (labels[wrong] + 3) % 10
    planted = Split(replace(split.train, labels=labels), split.test)
    found = estimate(planted, small_mlp, 20, recipe=Recipe(epochs=80))
    planted_here = np.isin(np.arange(400), wrong.numpy())
    assert found.subset_accuracy.mean() > 0.99
    assert found.memorization[planted_here].min() > 0.5
    assert found.memorization[planted_here].mean() > 0.9
    assert found.memorization[~planted_here].mean() < 0.15
    assert found.atypical_train(0.5)[planted_here].all()


@pytest.mark.parametrize(("call", "trained_again"), [(0, [2, 4]), (1, [2, 4]), (2, [])])
def test_killed_around_any_write(tmp_path, monkeypatch, call, trained_again):
    split = some_digits()
    settings = {"recipe": QUICK, "models_at_once": 2}
    estimate(split, small_cnn, 6, **settings).save(tmp_path / "whole.npz")
    with monkeypatch.context() as patched:
        kill_at_write(patched, call)
        with pytest.raises(Killed):
            estimate(split, small_cnn, 6, folder=tmp_path / "run", **settings)
    trained = []
    train_networks = estimation.train_networks
    monkeypatch.setattr(estimation, "train_networks", lambda *args: trained.append(args[3][0]) or train_networks(*args))
    estimate(split, small_cnn, 6, folder=tmp_path / "run", **settings).save(tmp_path / "resumed.npz")
    assert trained == trained_again
    assert (tmp_path / "resumed.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert seconds_spent(tmp_path / "run") > 0


def test_a_finished_estimate_is_continued_with_more_networks(tmp_path):
    split = some_digits()
    settings = {"recipe": QUICK, "models_at_once": 2}
    few = estimate(split, small_mlp, 4, folder=tmp_path, **settings)
    many = estimate(split, small_mlp, 6, folder=tmp_path, **settings)
    whole = estimate(split, small_mlp, 6, **settings)
    for name in ("member", "train_correct", "test_correct"):
        np.testing.assert_array_equal(getattr(many.outcomes, name), getattr(whole.outcomes, name))
        np.testing.assert_array_equal(getattr(many.outcomes.first(4), name), getattr(few.outcomes, name))
    np.testing.assert_array_equal(estimate(split, small_mlp, 4, folder=tmp_path, **settings).influence, few.influence)


def test_ctrl_c_keeps_the_networks_trained_so_far(tmp_path, monkeypatch, capsys):
    train_networks = estimation.train_networks

    def interrupted(*args):
        if args[3].start == 4:
            raise KeyboardInterrupt
        return train_networks(*args)

    with monkeypatch.context() as patched:
        patched.setattr(estimation, "train_networks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            estimate(some_digits(), small_mlp, 6, folder=tmp_path, recipe=QUICK, models_at_once=2)
    estimate(some_digits(), small_mlp, 6, folder=tmp_path, recipe=QUICK, models_at_once=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["networks 2/6", "networks 4/6", "networks 6/6"]


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    split = some_digits()
    estimate(split, small_mlp, 2, folder=tmp_path, recipe=QUICK)
    with pytest.raises(ValueError, match=r"\(epochs: 3 -> 2; fraction: 0.7 -> 0.6; network: .*; seed: 0 -> 1\)"):
        estimate(split, small_mlp, 2, 0.6, folder=tmp_path, recipe=replace(QUICK, epochs=2), seed=1)
    with pytest.raises(ValueError, match="parameters: 19210 -> 698"):
        estimate(split, small_cnn, 2, folder=tmp_path, recipe=QUICK)
    mirrored = Split(replace(split.train, images=split.train.images.flip(3)), split.test)
    with pytest.raises(ValueError, match=r"other settings \(samples: '\w{12}' -> '\w{12}'\)"):
        estimate(mirrored, small_mlp, 2, folder=tmp_path, recipe=QUICK)


def with_norm(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), layer, nn.Flatten(), nn.Linear(144, 10))


@pytest.mark.parametrize(
    ("model_fn", "message"),
    [
        (lambda: with_norm(nn.BatchNorm2d(4)), "training changes the buffers 1.running_mean, .*use GroupNorm"),
        (lambda: with_norm(nn.Dropout(0.5)), "other logits each time"),
        (lambda: small_mlp(num_classes=7), r"for pixels \[2, 1, 8, 8\] the network must return logits \[2, 10\]"),
    ],
)
def test_networks_that_cannot_be_stacked(model_fn, message):
    with pytest.raises(ValueError, match=message):
        estimate(some_digits(), model_fn, 2, recipe=QUICK)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_models": 1}, "n_models must be at least 2"),
        ({"n_models": 2, "fraction": 1.0}, "fraction must leave samples inside and outside of the subsets of 60"),
        ({"n_models": 2, "fraction": 0.001}, "got 0.001"),
        ({"n_models": 2, "models_at_once": 0}, "models_at_once must be at least 1"),
        ({"n_models": 2, "recipe": Recipe(lr=0)}, "lr above 0"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        estimate(some_digits(), small_mlp, **arguments)


def test_repeated_ids_are_refused():
    split = some_digits()
    twice = split.train.take(torch.tensor([0, 1, 2, 2]))
    with pytest.raises(ValueError, match="ids of the training samples must differ"):
        estimate(Split(twice, split.test), small_mlp, 2)


def test_a_loss_that_is_not_finite_names_the_network():
    with pytest.raises(FloatingPointError, match="the loss of network 0 is not finite in epoch"):
        estimate(some_digits(), small_mlp, 2, recipe=replace(QUICK, lr=1e30))


def test_score_needs_two_networks_and_matrices_that_fit():
    with pytest.raises(ValueError, match="needs at least 2, got 1"):
        score_alone(random_outcomes(1, 3, 3))
    three, two = np.zeros((3, 4), bool), np.zeros((2, 4), bool)
    with pytest.raises(ValueError, match="test_correct must be a bool matrix, a row per network"):
        Outcomes(three, three, two)
    with pytest.raises(ValueError, match="train_correct must be a bool matrix"):
        Outcomes(three, three.astype(int), three)
    with pytest.raises(ValueError, match="member is"):
        Outcomes(three, three[:, :2], three)


def test_npz_round_trip(tmp_path):
    found = score_alone(random_outcomes(8, 20, 10))
    found.save(tmp_path / "found.npz")
    again = load(tmp_path / "found.npz")
    for name in ("memorization", "memorization_error", "influence", "train_ids", "test_ids"):
        first, second = getattr(found, name), getattr(again, name)
        np.testing.assert_array_equal(first, second)
        assert first.dtype == second.dtype
    assert again.influence.dtype == np.float32
    np.testing.assert_array_equal(again.outcomes.member, found.outcomes.member)
    assert not (tmp_path / ".found.npz.tmp").exists()
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        load(tmp_path / "none.npz")
    (tmp_path / "broken.npz").write_bytes((tmp_path / "found.npz").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"broken\.npz is not an npz file of plain arrays"):
        load(tmp_path / "broken.npz")


def test_groups_and_their_measure():
    split = some_digits(60, 30)
    found = score(random_outcomes(8, 60, 30), split.train.ids.numpy(), split.test.ids.numpy())
    groups = split_test(split.test, found, 0.3)
    atypical = found.atypical_test(0.3)
    assert groups["atypical"].ids.tolist() == split.test.ids.numpy()[atypical].tolist()
    assert groups["typical"].ids.tolist() == split.test.ids.numpy()[~atypical].tolist()
    with pytest.raises(ValueError, match="their ids differ"):
        split_test(split.train, found)

    config = TrainConfig()
    model = small_mlp().train()
    measured = group_measure(groups, config)(model)
    assert list(measured) == ["typical clean", "typical pgd-10", "atypical clean", "atypical pgd-10"]
    some = groups["typical"]
    expected = evaluate(
        model,
        some.pixels(),
        some.labels,
        config.threat.eps,
        attacks=["pgd-10"],
        seed=config.run.seed,
        sample_ids=some.ids,
    )
    assert measured["typical pgd-10"] == expected.accuracy["pgd-10"]
    assert all(module.training for module in model.modules())
    nobody = {"typical": some, "atypical": some.take(torch.zeros(0, dtype=torch.int64))}
    assert list(group_measure(nobody, config)(model)) == ["typical clean", "typical pgd-10"]


def test_figures_without_atypical_samples_or_with_few_of_a_class(tmp_path):
    split = some_digits(15, 10)
    found = score(random_outcomes(8, 15, 10), split.train.ids.numpy(), split.test.ids.numpy())
    counts = figures.histogram(found, threshold=1.0)
    assert sum(counts["typical"]) == np.isfinite(found.memorization).sum() and sum(counts["atypical"]) == 0
    figures.plot_scores(tmp_path / "scores.png", counts, "scores", threshold=1.0)
    figures.plot_examples(tmp_path / "images.png", split.train, found.memorization, "images")
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2
