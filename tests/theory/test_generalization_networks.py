"""HR's guarantee for networks: what is measured, the experiment as a whole, its options and its findings."""

from __future__ import annotations

import json
from dataclasses import replace

import joblib
import pytest
import torch
from killing import Killed, kill_at_step

from fastat import data, holistic_loss
from fastat.evaluation import adversarial_losses
from fastat.theory.contract import Resources
from fastat.theory.generalization import PRESETS, NetworkCell, NetworkOutcome, Settings, cost, network_outcome, run
from fastat.theory.generalization.network_findings import network_findings
from fastat.theory.generalization.settings import budgets, corruption_cells, network_cells, optimism_cells, rate_cells
from fastat.training import load_network, training_sets

CPU = Resources(device="cpu")
TINY = Settings(
    samples=40, n=(20, 40), r_n=(1.0, 2.0), linear_alphas=(0.0, 0.1), linear_epses=(0.0, 0.2), width=16,
    epses=(0.0, 0.2), train_size=40, test_size=50, epochs=3, r=(0.1,), alpha=(0.1,), measure_every=2, seeds=(0, 1),
)  # fmt: skip
OVERFITTING = next(cell for cell in network_cells(PRESETS["quick"]) if cell.label_noise > 0 and cell.seed == 0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return folder, run(TINY, folder, CPU)


def test_every_setting_is_run_in_its_place(tiny):
    _, result = tiny
    assert [o.cell for o in result.rates] == rate_cells(TINY)
    assert [o.cell for o in result.corruptions] == corruption_cells(TINY)
    assert [o.cell for o in result.optimism] == optimism_cells(TINY)
    assert [o.cell for o in result.networks] == network_cells(TINY)
    assert len(result.networks) == 2 * (2 * len(budgets(TINY)) + 2)
    assert all(o.epochs == [2, 3] and len(o.robust) == 2 for o in result.networks)


def test_saved_result_says_what_was_found(tiny, tmp_path):
    _, result = tiny
    result.save(tmp_path)
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["experiment"] == "generalization"
    assert len(kept["rates"]) == len(result.rates) and kept["networks"][0]["cell"]["eps"] == 0.1
    assert [f["claim"] for f in kept["findings"]] == [f.claim for f in result.findings()]
    assert len({f["claim"] for f in kept["findings"]}) == len(kept["findings"])
    for picture in kept["figures"]:
        assert (tmp_path / "figures" / picture["file"]).stat().st_size > 10_000


def test_finished_experiment_is_not_run_again(tiny, monkeypatch):
    folder, result = tiny

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("fastat.theory.generalization.networks.train_configured", refuse)
    monkeypatch.setattr("fastat.theory.generalization.disappointment.fit", refuse)
    assert run(TINY, folder, CPU) == result


def test_killed_training_goes_on_to_the_same_numbers(tiny, tmp_path, monkeypatch):
    _, result = tiny
    first = result.networks[0]
    with monkeypatch.context() as patch:
        kill_at_step(patch, 1)
        with pytest.raises(Killed):
            network_outcome(first.cell, tmp_path, device="cpu")
    assert NetworkOutcome(first.cell, **network_outcome(first.cell, tmp_path, device="cpu")) == first


def test_linear_models_are_the_same_in_several_processes(tiny, tmp_path):
    _, result = tiny
    few = replace(TINY, n=(20,), r_n=(1.0,), seeds=(0,), epochs=1, r=(), alpha=(), epses=())
    with joblib.parallel_config(n_jobs=2):
        again = run(few, tmp_path, CPU)
    alone = {o.cell: o for o in [*result.rates, *result.corruptions, *result.optimism]}
    assert all(alone[o.cell] == o for o in [*again.rates, *again.corruptions, *again.optimism])


def test_in_sample_loss_is_that_of_the_labels_trained_on(tiny):
    folder, result = tiny
    outcome = next(o for o in result.networks if o.cell.alpha > 0 and o.cell.r > 0 and o.cell.label_noise > 0)
    cell = outcome.cell
    place = next(p for p in (folder / "runs").iterdir() if f"noise0.1-alpha0.1-r0.1-seed{cell.seed}" in p.name)
    model = load_network(place, which="last").model
    split = data.load("digits")
    own = training_sets(cell.config.dataset, cell.config.run.seed, split)[0]
    assert len(own) == 40
    assert int((own.labels != split.train.subset(40, cell.seed).labels).sum()) == 4
    losses = adversarial_losses(
        model, own.pixels(), own.labels, cell.eps, attack="pgd-10", seed=cell.seed, sample_ids=own.ids
    )
    assert float(holistic_loss(losses, 0.1, 0.1)) == pytest.approx(outcome.in_sample[-1], rel=1e-5)
    assert float(losses.mean()) == pytest.approx(outcome.mean[-1], rel=1e-5)
    assert outcome.in_sample[-1] > outcome.mean[-1]


@pytest.mark.slow
def test_pgd_training_overfits_wrong_labels_and_hr_less(tmp_path):
    plain, guarded = [], []
    for seed in (0, 1):
        cell = replace(OVERFITTING, seed=seed)
        plain.append(NetworkOutcome(cell, **network_outcome(cell, tmp_path, device="cpu")))
        cell = replace(cell, alpha=0.1)
        guarded.append(NetworkOutcome(cell, **network_outcome(cell, tmp_path, device="cpu")))
    assert sum(o.gap for o in plain) > 0.06
    assert sum(o.gap for o in guarded) < sum(o.gap for o in plain)
    assert all(o.disappointed and o.optimism > 0.3 for o in plain)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("samples", 1), ("dimension", 1), ("separation", 0.0), ("radius", float("inf")), ("linear_eps", -0.1),
        ("n", (50, 1)), ("n", ()), ("n", (50, 50)), ("r_n", (0.0,)), ("r_n", ()), ("corrupted", 1.0),
        ("linear_alphas", (-0.1,)), ("linear_alphas", ()), ("corrupted_n", 1), ("corrupted_r_n", 0.0),
        ("linear_epses", ()), ("linear_epses", (-1.0,)), ("data", "nothing"), ("model", "nothing"), ("eps", -0.1),
        ("epses", (0.1,)), ("epses", (0.2, 0.2)), ("train_size", 1), ("test_size", 0), ("epochs", 0),
        ("batch_size", 1), ("attack_steps", 0), ("lr", 0.0), ("label_noise", 0.0), ("label_noise", 1.0), ("r", (0.0,)),
        ("r", (0.1, 0.1)), ("alpha", (0.0,)), ("alpha", (1.0,)), ("all_errors", (0.1, 0.0)), ("measure_every", 0),
        ("seeds", ()), ("seeds", (1, 1)),
    ],
)  # fmt: skip
def test_bad_setting_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field} must .*got"):
        replace(PRESETS["quick"], **{field: value})


def test_presets_are_what_they_say():
    assert PRESETS["quick"].data == "digits"
    assert PRESETS["paper"].data == "cifar10" and PRESETS["paper"].eps == 8 / 255
    assert budgets(PRESETS["paper"]) == [(0, 0), (0, 0.05), (0, 0.1), (0, 0.2), (0.05, 0), (0.1, 0), (0.1, 0.1)]


def test_cost_counts():
    text = cost(TINY)
    assert "22 curve points of 40 linear models each" in text
    assert "20 trainings of 60 epochs" in text
    assert "measured 2 times" in text


def made_up(cell: NetworkCell, in_sample: float, test: float, best: float, last: float) -> NetworkOutcome:
    return NetworkOutcome(cell, [1, 2], [1.0, in_sample], [1.0, in_sample], [1.0, test], [0.9, 0.9], [best, last])


def verdicts(hr_gap: float, hr_in_sample: float, hr_last: float, optimism_of_eps: float) -> list[str]:
    outcomes = []
    for cell in network_cells(replace(TINY, seeds=(0, 1, 2))):
        jitter = 0.001 * cell.seed
        if cell.alpha or cell.r:
            outcomes.append(made_up(cell, hr_in_sample, 0.5, hr_last + hr_gap, hr_last + jitter))
        else:
            test = 0.5 + optimism_of_eps * cell.eps + jitter * cell.eps
            outcomes.append(made_up(cell, 0.3, test, 0.6 + jitter, 0.5))
    return [finding.verdict for finding in network_findings(outcomes)]


def test_verdicts_follow_the_numbers():
    optimism, gaps, bounds, poison, accuracy = 1, 2, 2, 1, 2
    assert verdicts(0.02, 0.6, 0.55, 1.0) == ["reproduced"] * (optimism + gaps + bounds + poison + accuracy)
    assert verdicts(0.3, 0.4, 0.45, -1.0) == ["not reproduced"] * (optimism + gaps + bounds + poison + accuracy)


def test_one_seed_proves_nothing():
    outcomes = [made_up(cell, 0.3, 0.6, 0.6, 0.5) for cell in network_cells(replace(TINY, seeds=(0,)))]
    findings = network_findings(outcomes)
    assert findings[0].verdict == "partly"
    assert "inf" in findings[0].evidence


def test_torch_is_left_as_found(tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    network_outcome(network_cells(TINY)[0], tmp_path, device="cpu")
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
