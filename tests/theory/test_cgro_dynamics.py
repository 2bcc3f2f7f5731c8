"""Training on patch data: the data, the gradient, the worst case, the three stages, and CGRO over seeds."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from fastat.theory.cgro import (
    DynamicsCell,
    PatchData,
    detect_stages,
    dynamics_outcome,
    patch_data,
    phase_diagram,
    shows_cgro,
    train_dynamics,
)
from fastat.theory.cgro.runs import trajectory

SMALL = {"dim": 30, "patches": 3, "alpha": 1.0, "sigma": 0.7}


def output(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ weights.T).pow(3).sum((1, 2))


def shifted(data: PatchData, by: float) -> torch.Tensor:
    x = data.x.clone()
    x[:, 0] -= by * data.y[:, None] * data.w_star
    return x


def test_patch_data_is_what_it_says():
    data = patch_data(4000, 50, 3, 1.5, 0.8, seed=3)
    assert data.x.shape == (4000, 3, 50) and set(data.y.tolist()) == {-1.0, 1.0}
    assert float(data.w_star.norm()) == pytest.approx(1)
    torch.testing.assert_close(data.x[:, 0], 1.5 * data.y[:, None] * data.w_star)
    noise = data.x[:, 1:].flatten(0, 1)
    assert float((noise @ data.w_star).abs().max()) < 1e-14
    covariance = noise.T @ noise / len(noise)
    expected = 0.8**2 / 50 * (torch.eye(50, dtype=torch.float64) - torch.outer(data.w_star, data.w_star))
    assert float((covariance - expected).abs().max()) < 6 * 0.8**2 / 50 / len(noise) ** 0.5
    assert abs(float(data.y.mean())) < 4 / 4000**0.5
    assert abs(float(data.y @ data.x[:, 1] @ torch.ones(50, dtype=torch.float64))) / 4000 < 4 * 0.8 / 4000**0.5


def test_seed_and_draw():
    one, same, test, other = (patch_data(5, seed=s, draw=d) for s, d in ((1, 0), (1, 0), (1, 1), (2, 0)))
    assert torch.equal(one.x, same.x) and torch.equal(one.w_star, test.w_star)
    assert not torch.equal(one.x, test.x) and not torch.equal(one.w_star, other.w_star)


def test_the_run_is_gradient_descent_on_the_worst_cases():
    """Autograd on the full network, in d dimensions, from the same first filters: the same U, V and weights."""
    train, test = patch_data(8, **SMALL, seed=1), patch_data(50, **SMALL, seed=1, draw=1)
    options = {"filters": 12, "init_scale": 0.2, "step_size": 0.25, "seed": 4}
    first = train_dynamics(train, test, 0.4, max_steps=1, **options)
    run = train_dynamics(train, test, 0.4, max_steps=20, measure_every=7, **options)
    worst = shifted(train, 0.4)
    weights = _first_weights(train, 12, 0.2, 4).requires_grad_()
    for step in range(21):
        with torch.no_grad():
            torch.testing.assert_close(run.U[step], (weights @ train.w_star).pow(3).sum())
            noise = (train.x[:, 1:] @ weights.T).pow(3).sum((1, 2)) * train.y
            torch.testing.assert_close(run.V[step], noise)
            torch.testing.assert_close(run.train_margin[step], train.y * output(weights, worst))
            if step in run.measured:
                place = run.measured.index(step)
                for x, found in ((test.x, run.clean_test), (shifted(test, 0.4), run.robust_test)):
                    assert found[place] == float((test.y * output(weights, x) > 0).double().mean())
        if step == 1:
            torch.testing.assert_close(first.weights, weights.detach())
        if step < 20:
            (grad,) = torch.autograd.grad(F.softplus(-train.y * output(weights, worst)).mean(), weights)
            weights = (weights - 0.25 * grad).detach().requires_grad_()
    assert run.measured == [0, 7, 14, 20]
    torch.testing.assert_close(run.weights, weights.detach())
    assert not torch.allclose(run.weights, first.weights, atol=1e-3)


def _first_weights(train: PatchData, filters: int, scale: float, seed: int) -> torch.Tensor:
    """The filters before the first step: a run whose steps are too small to move them."""
    still = train_dynamics(
        train, train, 0.4, filters=filters, init_scale=scale, step_size=1e-300, max_steps=1, seed=seed
    )
    return still.weights


def test_the_first_filters_are_gaussian_and_reflected():
    data = patch_data(4, dim=300, seed=0)
    spread, signs = [], set()
    for seed in range(12):
        first = _first_weights(data, 100, 0.3, seed)
        spread.append(float(first.std()))
        assert float((first @ data.w_star).pow(3).sum()) > 0
        signs.add(float((first @ data.w_star).sum()) > 0)
    assert spread == pytest.approx([0.3] * 12, rel=0.03)


def test_u_never_falls_and_the_worst_case_is_the_largest_move():
    train, test = patch_data(20, **SMALL, seed=2), patch_data(40, **SMALL, seed=2, draw=1)
    for seed in range(4):
        run = train_dynamics(train, test, 0.6, filters=30, max_steps=60, seed=seed)
        assert float(run.U[0]) >= 0 and bool((run.U.diff() >= 0).all())
        moves = torch.linspace(-0.6, 0.6, 41, dtype=torch.float64)
        margins = torch.stack([train.y * output(run.weights, shifted(train, float(move))) for move in moves])
        torch.testing.assert_close(margins.amin(0), run.train_margin[-1])


def test_stages_by_hand():
    memory = torch.tensor([[0.0, 0.0], [0.5, 0.1], [1.0, 0.2], [2.0, 0.9], [2.5, 0.95]])
    assert detect_stages(memory, memory).memorizing == 2
    assert detect_stages(memory, memory).fitted is None
    assert detect_stages(memory, memory + 0.1).fitted == 3
    assert detect_stages(memory / 10, memory / 10).memorizing is None


def test_a_run_ends_a_fifth_after_all_are_fitted_or_at_max_steps():
    train, test = patch_data(seed=0), patch_data(100, seed=0, draw=1)
    run = train_dynamics(train, test, measure_every=None)
    fitted = run.stages.fitted
    looked = math.ceil(fitted / 10) * 10
    assert run.steps == math.ceil(1.2 * looked)
    assert bool((run.train_margin[fitted] >= 1).all()) and not bool((run.train_margin[fitted - 1] >= 1).all())
    assert run.measured == [0, run.steps] and float(run.robust_train[-1]) == 1
    short = train_dynamics(train, test, max_steps=20)
    assert short.steps == 20 and short.stages.fitted is None
    torch.testing.assert_close(short.V, run.V[:21])


@pytest.mark.parametrize(
    ("delta", "sigma", "seeds", "at_least"), [(0.8, 0.86, 12, 12), (0.85, 0.6, 12, 9), (0.9, 0.4, 8, 6)]
)
def test_cgro_over_seeds(delta, sigma, seeds, at_least):
    """The published phenomenon, over seeds; and the feature comes before the memory."""
    runs = [dynamics_outcome(DynamicsCell(delta, sigma, seed=seed)) for seed in range(seeds)]
    shown = [run for run in runs if shows_cgro(run["robust_train"], run["clean_test"], run["robust_test"])]
    assert len(shown) >= at_least
    for run in runs:
        assert run["robust_train"] == 1 and run["clean_test"] >= 0.98
        assert run["memorizing"] < run["fitted"] <= run["steps"] < 4000
        share_u, share_v = ((run[key][1] - run[key][0]) / (run[key][2] - run[key][0]) for key in ("U", "V"))
        assert share_u > 2 * share_v and share_v < 0.2
    if sigma == 0.86:
        assert all(0.45 <= run["robust_test"] <= 0.58 for run in runs)


def test_elsewhere_it_does_not_show():
    """A weak attack: robust test accuracy generalizes. Loud noise: not even clean accuracy does."""
    weak = dynamics_outcome(DynamicsCell(delta=0.3, sigma=0.4))
    loud = dynamics_outcome(DynamicsCell(delta=0.9, sigma=2.5))
    assert weak["kind"] == "robust" and weak["robust_test"] > 0.95
    assert loud["kind"] == "not clean" and loud["clean_test"] < 0.9 and loud["robust_train"] == 1
    given_up = dynamics_outcome(DynamicsCell(delta=0.95, sigma=0.2, max_steps=50))
    assert given_up["kind"] == "not fitted" and given_up["memorizing"] is None


def test_phase_diagram_counts_the_seeds():
    kinds = {(0.1, 1): ["cgro", "robust"], (0.2, 1): ["cgro", "cgro"], (0.1, 2): ["not clean", "not fitted"]}
    runs = [{"delta": d, "n": n, "kind": kind} for (d, n), found in kinds.items() for kind in found]
    shares = phase_diagram(runs, "n", "delta")
    assert shares["cgro"][0].tolist() == [0.5, 1.0] and shares["cgro"][1, 0] == 0
    assert shares["not clean"][1, 0] == shares["not fitted"][1, 0] == 0.5
    assert math.isnan(shares["robust"][1, 1])


def test_trajectory_is_the_run_in_short():
    cell = DynamicsCell(seed=3, test_samples=50)
    short, end = trajectory(cell), dynamics_outcome(cell)
    assert short["step"][0] == 0 and 100 <= len(short["step"]) <= 200
    assert short["memorizing"] == end["memorizing"] and short["U"][0] == pytest.approx(end["U"][0], rel=1e-5)
    assert all(len(short[key]) == len(short["step"]) for key in ("U", "V", "robust_train", "clean_test"))


def test_arguments_out_of_range():
    for name, value in (("n", 0), ("dim", 1), ("patches", 1), ("alpha", 0.0), ("sigma", float("nan"))):
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            patch_data(**{name: value})
    train, test = patch_data(5, **SMALL), patch_data(5, **SMALL, draw=1)
    for delta in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match=rf"delta must be above 0 and below alpha = 1.0, got {delta}"):
            train_dynamics(train, test, delta)
    wrong = {"filters": 0, "init_scale": 0.0, "step_size": -1.0, "max_steps": 0, "measure_every": 0}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"{name} must be .* got {value}"):
            train_dynamics(train, test, 0.5, **{name: value})
    with pytest.raises(ValueError, match="test must have the alpha and the w_star of train"):
        train_dynamics(train, patch_data(5, **SMALL, seed=9), 0.5)
    with pytest.raises(ValueError, match="noise patches of train must be orthogonal to w_star"):
        train_dynamics(replace(train, x=train.x + 0.1 * train.w_star), test, 0.5)
    with pytest.raises(FloatingPointError, match=r"diverged before step .*: step_size 1e\+200 is too large"):
        train_dynamics(train, test, 0.5, step_size=1e200)
