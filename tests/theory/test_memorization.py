"""The study of atypical samples: what is removed, what is compared, the experiment from end to end."""

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fastat import data
from fastat.data import Split
from fastat.support.keyed import keyed_permutation
from fastat.theory.memorization import (
    Atypical,
    Recipe,
    atypical_samples,
    estimate,
    experiment,
    group_norm_cnn,
    kept_positions,
    load,
    load_split,
    paired_difference,
    small_mlp,
)
from fastat.theory.memorization import cells as cells_module
from fastat.theory.memorization.cells import right, train_cell
from fastat.theory.memorization.experiment import PRESETS, Settings, cost, run
from fastat.theory.memorization.gallery import gallery, images_of
from fastat.theory.memorization.removal import removed_counts
from fastat.theory.memorization.summary import condition, members

SMALL = Settings(
    train_size=150,
    networks=30,
    subset_epochs=15,
    subset_batch_size=32,
    subset_width=32,
    width=16,
    eps=(0.1,),
    epochs=2,
    attack_steps=2,
    removed=(0.5, 1.0),
    protocols=("bat", "trades"),
    measure_every=1,
    seeds=2,
)


def test_the_training_images_left_out_are_judged_by():
    whole, part = load_split("digits"), load_split("digits", 100, 3)
    assert (len(part.train), len(part.test)) == (100, 1697)
    assert part.test.ids[:359].equal(whole.test.ids)
    assert torch.cat([part.train.ids, part.test.ids]).sort().values.tolist() == list(range(1797))
    assert not part.train.ids.equal(load_split("digits", 100, 4).train.ids)
    position = {number: row for row, number in enumerate(whole.train.ids.tolist())}
    row = position[int(part.test.ids[-1])]
    assert part.test.images[-1].equal(whole.train.images[row]) and part.test.labels[-1] == whole.train.labels[row]
    with pytest.raises(ValueError, match="train_size must be below the 1438 training images of digits, got 1438"):
        load_split("digits", 1438)


def test_what_is_left_of_the_training_samples():
    atypical = Atypical(train=(7, 2, 5), test=(1,))
    assert kept_positions(9, atypical, 0, at_random=False, seed=0).tolist() == list(range(9))
    assert kept_positions(9, atypical, 2, at_random=False, seed=0).tolist() == [0, 1, 3, 4, 5, 6, 8]
    random = [kept_positions(9, atypical, 2, at_random=True, seed=seed) for seed in range(4)]
    assert all(len(kept) == 7 and len(kept.unique()) == 7 for kept in random)
    assert len({tuple(kept.tolist()) for kept in random}) > 1
    assert random[1].equal(kept_positions(9, atypical, 2, at_random=True, seed=1))
    for removed, at_random in ((4, False), (9, True), (-1, True)):
        with pytest.raises(ValueError, match=f"removed must be at least 0, .* got {removed}"):
            kept_positions(9, atypical, removed, at_random=at_random, seed=0)


def test_fractions_of_the_atypical_samples():
    assert removed_counts((0.25, 0.5, 1.0), 10) == {0.25: 2, 0.5: 5, 1.0: 10}
    assert removed_counts((0.01, 1.0), 10) == {0.01: 1, 1.0: 10}
    for fractions, atypical in (((0.25, 0.5), 1), ((1.0,), 0)):
        with pytest.raises(ValueError, match=f"removed must be fractions .* of {atypical}: more networks"):
            removed_counts(fractions, atypical)


def test_a_paired_difference_by_hand():
    values = np.array([[1.0, 0, 0, 1], [1, 0, 0, 0], [1, -1, 0, 0]])
    found = paired_difference(values)
    by_seed, by_sample = np.array([0.5, 0.25, 0.0]), np.array([1, -1 / 3, 0, 1 / 3])
    seeds, samples = by_seed.var(ddof=1) / 3, by_sample.var(ddof=1) / 4
    assert found.mean == pytest.approx(0.25)
    assert found.standard_error == pytest.approx((seeds + samples) ** 0.5)
    assert found.freedom == pytest.approx((seeds + samples) ** 2 / (seeds**2 / 2 + samples**2 / 3))
    low, high = found.interval(0.9)
    assert high - 0.25 == pytest.approx(stats.t.ppf(0.95, found.freedom) * found.standard_error)
    assert 0.25 - low == pytest.approx(high - 0.25)
    same = paired_difference(np.zeros((2, 5)))
    assert same.interval() == (0.0, 0.0) and np.isfinite(same.freedom)
    for shape in ((1, 5), (5, 1), (5,)):
        with pytest.raises(ValueError, match="at least two seeds and two samples"):
            paired_difference(np.zeros(shape))


def test_intervals_of_paired_differences_cover():
    """Networks and samples with effects of their own, beside the noise of each prediction."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        values = 0.1 + 0.1 * rng.normal(size=(6, 1)) + 0.5 * rng.normal(size=(1, 80)) + rng.normal(size=(6, 80))
        low, high = paired_difference(values).interval()
        hits += low < 0.1 < high
    assert 0.93 < hits / 400 <= 0.995


def test_the_gallery_keeps_the_images():
    train = data.load("digits").train.subset(200, 0)
    scores = np.random.default_rng(0).random(200) - 0.2
    scores[5] = np.nan
    images, kept = images_of(json.loads(json.dumps(gallery(train, scores))))
    assert len(images) == 60 and images.classes == train.classes
    for label in (0, 9):
        own = np.flatnonzero((train.labels == label).numpy() & ~np.isnan(scores))
        best = own[np.argmax(scores[own])]
        first = int((images.labels == label).nonzero()[0])
        assert kept[first] == scores[best]
        torch.testing.assert_close(
            images.pixels(images.images[first]), train.pixels(train.images[best]), atol=0.51 / 255, rtol=0
        )


def test_a_stack_of_group_norm_networks_learns():
    split = load_split("digits", 120)
    rest = Split(split.train, split.test.take(torch.arange(300)))
    recipe = Recipe(epochs=25, batch_size=20, lr=0.1)
    found = estimate(rest, lambda: group_norm_cnn(10, 1, 8), 3, recipe=recipe)
    assert found.subset_accuracy.mean() > 0.95 and found.test_accuracy.mean() > 0.7
    with pytest.raises(ValueError, match="width must be a multiple of 8, for group norm, got 12"):
        group_norm_cnn(width=12)


def test_mislabelled_samples_are_removed_first():
    split = load_split("digits", 400)
    wrong = keyed_permutation(400, 1)[:20]
    labels = split.train.labels.clone()
    labels[wrong] = (labels[wrong] + 3) % 10
    planted = Split(replace(split.train, labels=labels), split.test.take(torch.arange(100)))
    atypical = atypical_samples(estimate(planted, small_mlp, 20, recipe=Recipe(epochs=60)))
    left = [kept_positions(400, atypical, 40, at_random=at_random, seed=0) for at_random in (False, True)]
    by_score, at_random = (np.isin(wrong.numpy(), kept.numpy()).sum() for kept in left)
    assert by_score <= 7 and at_random >= 14


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memorization")
    result = run(SMALL, folder)
    result.save(folder)
    return folder, result


def test_experiment(finished):
    folder, result = finished
    (bed,) = result.beds
    found = load(folder / "digits" / "memorization.npz")
    atypical = atypical_samples(found)
    assert bed.samples["atypical train"] == len(atypical.train) > 3
    assert bed.samples["atypical test"] == found.atypical_test().sum() > 1
    assert bed.samples["typical test"] + bed.samples["atypical test"] == bed.samples["all test"] == 1647
    scores = found.memorization[list(atypical.train)]
    assert (np.diff(scores) <= 0).all() and scores[-1] > 0.15
    conditions = [training.condition for training in bed.trainings]
    assert sorted(conditions) == ["bat", "pgd-at", "random 0.5", "random 1", "score 0.5", "score 1", "trades"]
    assert all(len(values) == 2 for training in bed.trainings for values in training.accuracy.values())

    accuracy = bed.accuracy(0.1, "pgd-at")
    curve = bed.curves[0]
    assert curve.epochs == [1, 2]
    for name, values in curve.accuracy.items():
        np.testing.assert_allclose([by_epoch[-1] for by_epoch in values], accuracy[name], atol=1.5 / 1647)
    for kind in ("clean", "pgd-10"):
        groups = {name: np.array(accuracy[f"{name} test {kind}"]) for name in ("typical", "atypical", "all")}
        whole = sum(bed.samples[f"{name} test"] * groups[name] for name in ("typical", "atypical"))
        np.testing.assert_allclose(whole, 1647 * groups["all"])
        difference = bed.contrast(0.1, "bat", "pgd-at", "all test", kind)
        assert difference.mean == pytest.approx(
            np.mean(bed.accuracy(0.1, "bat")[f"all test {kind}"]) - groups["all"].mean()
        )

    kept = json.loads((folder / "results.json").read_text())
    assert kept["beds"][0]["samples"] == bed.samples and len(kept["findings"]) == 6
    assert len(kept["figures"]) == 5
    for figure in kept["figures"]:
        assert (folder / "figures" / figure["file"]).read_bytes()[:4] == b"\x89PNG"
    assert not list((folder / "trainings").iterdir())


def test_a_finished_experiment_trains_nothing(finished, monkeypatch):
    folder, result = finished
    monkeypatch.setattr(cells_module, "train_configured", None)
    again = run(SMALL, folder)
    assert dataclasses.asdict(again) == dataclasses.asdict(result)


def test_a_cell_trains_on_what_is_left(tmp_path, monkeypatch):
    split = load_split("digits", 150)
    known = Atypical(train=(3, 100, 7), test=(0, 5))
    study = experiment._Study(known, {1.0: 3}, members(known, 150, 1647), "digest", None)
    cells = [cell for cell in study.cells(SMALL, "digits") if cell.config.run.seed == 0]
    seen = []

    def spy(config, folder, **options):
        seen.append((config.method.protocol, options["split"].train.ids))
        return train(config, folder, **options)

    train = cells_module.train_configured
    monkeypatch.setattr(cells_module, "train_configured", spy)
    by_score = next(cell for cell in cells if cell.removed == 3 and not cell.at_random)
    found = train_cell(by_score, atypical={"digits": known}, folder=tmp_path, root=None, device="cpu")
    gone = set(split.train.ids.tolist()) - set(seen[0][1].tolist())
    assert gone == set(split.train.ids[[3, 100, 7]].tolist())
    assert len(right(found["train"]["clean"])) == 150 and len(right(found["test"]["pgd-10"])) == 1647
    assert not (right(found["test"]["pgd-10"]) & ~right(found["test"]["clean"])).any()
    assert found["curve"] == []
    assert condition(by_score, {3: 1.0}) == "score 1"
    assert [cell.config.method.protocol for cell in cells] == ["pgd-at", "pgd-at", "pgd-at", "bat", "trades"]
    assert [cell.measure_every for cell in cells] == [1, None, None, None, None]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"removed": (0.5,)}, "removed must be fractions above 0 that rise to 1"),
        ({"removed": ()}, "removed must be one or more values"),
        ({"data": ("digits", "digits")}, "data must be one or more values, all different"),
        ({"data": ("digit",)}, "data must be one of digits"),
        ({"protocols": ("pgd-at",)}, "protocols must be of bat"),
        ({"fraction": 1.0}, "fraction must be between 0 and 1, got 1.0"),
        ({"seeds": 1}, "seeds must be at least 2, got 1"),
        ({"subset_lr": 0.0}, "subset_lr must be above 0, got 0.0"),
        ({"eps": (-0.1,)}, "eps must be a finite number >= 0"),
        ({"model": "preact_resnet18"}, "width must be left out for preact_resnet18, got 256"),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_cost_counts_the_trainings():
    assert "14 trainings of 28 epochs together" in cost(SMALL)
    assert "30 networks of 15 epochs on random subsets (4.72e+04 passes of an image)" in cost(SMALL)
    paper = PRESETS["paper"]
    assert (paper.data, paper.protocols) == (("cifar100", "tiny-imagenet"), ("bat", "trades", "mart"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        cost(replace(SMALL, data=("folder:/nowhere",)))
