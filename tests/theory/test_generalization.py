"""HR's guarantee for linear models: the closed forms, the training, and the theorem's frequencies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize, minimize_scalar
from torch import Tensor, nn

from fastat import holistic_loss, holistic_weights
from fastat.attacks import pgd
from fastat.theory.generalization import LinearCell, LinearOutcome, Problem, exponential_rate, fit, linear_outcome
from fastat.theory.generalization.fitting import WEIGHT_DECAY
from fastat.theory.generalization.linear_findings import linear_findings
from fastat.theory.generalization.statistics import mean_and_half_width
from fastat.theory.generalization.worst_case import worst_case_weights

PROBLEM = Problem(dimension=10, separation=1.0, radius=2.5, eps=0.3)
CELL = LinearCell(
    PROBLEM, n=50, alpha=0.0, r=0.0, worst="support", corruption="none", fraction=0.0, samples=300, seed=0
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_losses(samples: int, n: int) -> Tensor:
    return 3 * torch.rand(samples, n, generator=generator(n), dtype=torch.float64) ** 3


def outcome(cell: LinearCell) -> LinearOutcome:
    return LinearOutcome(cell, **linear_outcome(cell))


@pytest.mark.parametrize("n", [2, 5, 50, 300])
@pytest.mark.parametrize("r", [0.0, 1e-5, 0.001, 0.03, 0.3, 2.0])
@pytest.mark.parametrize("alpha", [0.0, 0.03, 0.1, 0.45])
def test_worst_case_of_the_sample_is_the_exact_solver_of_the_library(n, r, alpha):
    losses = random_losses(8, n)
    top, where = losses.max(1)
    p, p_worst = worst_case_weights(losses, top, alpha, r)
    folded = p.scatter_add(1, where[:, None], p_worst[:, None])
    expected = torch.stack([holistic_weights(own, alpha, r) for own in losses])
    torch.testing.assert_close(folded, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("r", [1e-4, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("above", [1e-3, 0.3, 5.0])
def test_worst_atom_outside_the_sample_against_the_dual_problem(r, above):
    losses = random_losses(4, 20)
    worst = losses.amax(1) + above
    p, p_worst = worst_case_weights(losses, worst, 0.0, r)
    divergence = -(20 * p).log().mean(1)
    torch.testing.assert_close(p.sum(1) + p_worst, torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(divergence, torch.full_like(divergence, r), rtol=1e-7, atol=1e-10)
    for own, top, value in zip(losses, worst, (p * losses).sum(1) + p_worst * worst, strict=True):

        def dual(log_distance, own=own, top=top):
            eta = float(top) + math.exp(log_distance)
            return eta - math.exp(-r + float((eta - own).log().mean()))

        least = min(minimize_scalar(dual, bounds=(-40, 15), method="bounded", options={"xatol": 1e-10}).fun, dual(-40))
        assert float(value) == pytest.approx(least, abs=1e-7)


def test_corrupted_mass_goes_to_the_worst_atom():
    losses = random_losses(3, 10)
    p, p_worst = worst_case_weights(losses, losses.amax(1) + 1, 0.25, 0.0)
    assert p_worst.tolist() == [0.25] * 3
    for own, mass in zip(losses, p, strict=True):
        assert mass[own.argsort()].tolist() == pytest.approx([0, 0, 0.05, *[0.1] * 7])


def test_equal_losses_have_equal_weights():
    losses = torch.full((1, 4), 0.7, dtype=torch.float64)
    p, p_worst = worst_case_weights(losses, losses.amax(1), 0.0, 0.3)
    assert p[0].tolist() == pytest.approx([0.25] * 4) and float(p_worst) == 0


def test_closed_form_margin_is_what_pgd_reaches():
    z = PROBLEM.sample(1, 40, generator())
    w = torch.randn(1, 10, generator=generator(1), dtype=torch.float64)
    exact = F.softplus(-PROBLEM.margins(w, z))[0]
    model = nn.Linear(10, 2, bias=False)
    model.weight.data = torch.cat([-w, w]).float() / 2
    x, y = z[0].float(), torch.ones(40, dtype=torch.int64)  # the label 1 stands for y = 1
    x_adv = pgd(model, x, y, PROBLEM.eps, steps=20, step_size=10 * PROBLEM.eps, norm="l2", bounds=None)
    found = F.cross_entropy(model(x_adv), y, reduction="none").double()
    assert (found <= exact + 1e-5).all()
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dimension", [2, 10])
def test_population_loss_is_the_mean_over_many_points(dimension):
    problem = replace(PROBLEM, dimension=dimension)
    w = torch.randn(2, dimension, generator=generator(1), dtype=torch.float64)
    losses = F.softplus(-problem.margins(w, problem.sample(2, 200_000, generator())))
    error = losses.std(1) / 200_000**0.5
    assert ((problem.population_loss(w) - losses.mean(1)).abs() < 5 * error).all()


def test_least_margin_is_that_of_the_support():
    problem = replace(PROBLEM, dimension=2)
    w = torch.randn(3, 2, generator=generator(1), dtype=torch.float64)
    margins = problem.margins(w, problem.sample(3, 100_000, generator()))
    least = problem.least_margin(w)
    assert (margins.amin(1) >= least).all()
    torch.testing.assert_close(margins.amin(1), least, rtol=0, atol=0.02)


def test_corruptions_replace_their_fraction_of_each_sample():
    z = PROBLEM.sample(5, 55, generator())
    flipped, hidden = PROBLEM.corrupt(z, "flip", 0.1), PROBLEM.corrupt(z, "hide", 0.1)
    assert PROBLEM.corrupt(z, "none", 0.1) is z
    assert ((flipped == -z).all(2).sum(1) == 5).all() and ((flipped == z).all(2).sum(1) == 50).all()
    assert ((hidden == z).all(2).sum(1) == 50).all()
    gone = z[..., 0].sort(1).values[:, :5]
    assert (hidden[..., 0].amin(1) > gone.amax(1)).all()
    assert float(hidden[..., 0].max()) == 3.5
    assert z[..., 0].max() < 3.5


@pytest.mark.parametrize("r", [0.0, 0.03])
def test_fit_minimizes_the_hr_loss(r):
    """The objective by the library's solver and its minimum by another method."""
    z = PROBLEM.sample(3, 40, generator())
    fitted = fit(PROBLEM, z, 0.0, r, "sample")
    assert float(fitted.gradient.max()) < 1e-5
    for own, w, loss in zip(z, fitted.w, fitted.loss, strict=True):

        def objective(at, own=own):
            losses = F.softplus(-PROBLEM.margins(torch.from_numpy(at)[None], own[None]))[0]
            return float(holistic_loss(losses, 0.0, r)) + WEIGHT_DECAY / 2 * float(at @ at)

        value = float(loss) + WEIGHT_DECAY / 2 * float(w @ w)
        assert objective(w.numpy()) == pytest.approx(value, abs=1e-9)
        assert minimize(objective, w.numpy() + 0.1).fun == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_fit_with_the_worst_case_of_the_support_cannot_be_improved(alpha):
    z = PROBLEM.sample(20, 40, generator())
    fitted = fit(PROBLEM, z, alpha, 0.05, "support")

    def objective(w):
        losses = F.softplus(-PROBLEM.margins(w, z))
        worst = F.softplus(-PROBLEM.least_margin(w))
        p, p_worst = worst_case_weights(losses, worst, alpha, 0.05)
        return (p * losses).sum(1) + p_worst * worst + WEIGHT_DECAY / 2 * (w * w).sum(1)

    least = objective(fitted.w)
    for length in (1e-3, 1e-2, 0.1):
        step = torch.randn(20, 10, generator=generator(5), dtype=torch.float64)
        assert (objective(fitted.w + length * step) >= least - 1e-6).all()


def test_support_bound_is_at_least_that_of_the_sample():
    z = PROBLEM.sample(50, 30, generator())
    assert (fit(PROBLEM, z, 0.05, 0.1, "support").loss >= fit(PROBLEM, z, 0.05, 0.1, "sample").loss - 0.02).all()


def test_unknown_names_are_named():
    z = PROBLEM.sample(1, 5, generator())
    with pytest.raises(ValueError, match="worst must be one of support, sample, got 'batch'"):
        fit(PROBLEM, z, 0.0, 0.1, "batch")
    with pytest.raises(ValueError, match="corruption must be one of none, flip, hide, got 'steal'"):
        PROBLEM.corrupt(z, "steal", 0.1)


def test_disappointment_falls_as_fast_as_the_theorem_says():
    for n in (50, 100):
        curve = [outcome(replace(CELL, n=n, r=r_n / n)) for r_n in (0.5, 1.0, 2.0, 3.0)]
        rate = exponential_rate([0.5, 1.0, 2.0, 3.0], [o.disappointed for o in curve], CELL.samples)
        assert rate.slope + 2 * rate.slope_error >= 1
        assert rate.slope > 3 * rate.slope_error
        assert curve[-1].frequency <= math.exp(-3) + 0.02


def test_plain_adversarial_training_disappoints():
    for n in (25, 100):
        plain = outcome(replace(CELL, n=n))
        assert plain.frequency > 0.75
        assert plain.optimism > 5 * plain.optimism_error
    assert outcome(replace(CELL, n=25)).optimism > 2 * plain.optimism


def test_the_largest_loss_of_a_small_sample_does_not_give_the_guarantee():
    cell = replace(CELL, n=25, r=3.0 / 25)
    assert outcome(replace(cell, worst="sample")).frequency > 5 * math.exp(-3)
    assert outcome(cell).frequency <= math.exp(-3)


def test_alpha_guards_against_hidden_points():
    cell = replace(CELL, n=100, r=0.02, corruption="hide", fraction=0.1, samples=200)
    assert outcome(cell).frequency > 0.8
    assert outcome(replace(cell, alpha=0.1)).frequency <= math.exp(-2)


def test_flipped_labels_make_the_bound_loose_not_wrong():
    cell = replace(CELL, n=100, r=0.02, alpha=0.1, corruption="flip", fraction=0.1, samples=200)
    assert outcome(cell).frequency <= math.exp(-2)


def test_optimism_grows_with_small_eps():
    still, attacked = (outcome(replace(CELL, problem=replace(PROBLEM, eps=eps), samples=1000)) for eps in (0.0, 0.2))
    assert attacked.optimism - still.optimism > 3 * math.hypot(attacked.optimism_error, still.optimism_error)


def test_the_seed_decides_the_numbers():
    cell = replace(CELL, samples=20, r=0.02)
    assert linear_outcome(cell) == linear_outcome(cell)
    assert linear_outcome(cell)["in_sample"] != linear_outcome(replace(cell, seed=1))["in_sample"]


def test_exponential_rate_finds_the_slope_it_was_given():
    x, rng = np.array([0.5, 1.0, 2.0, 3.0, 4.0]), np.random.default_rng(0)
    fits = [exponential_rate(x, rng.binomial(1000, 0.8 * np.exp(-1.3 * x)), 1000) for _ in range(200)]
    slopes = np.array([rate.slope for rate in fits])
    assert slopes.mean() == pytest.approx(1.3, abs=0.01)
    assert np.mean([rate.slope_error for rate in fits]) == pytest.approx(slopes.std(), rel=0.15)
    assert np.mean([rate.constant for rate in fits]) == pytest.approx(math.log(0.8), abs=0.02)


def test_too_few_hits_have_no_rate():
    assert exponential_rate([1.0, 2.0], [3, 0], 100) is None
    assert exponential_rate([1.0, 2.0], [100, 100], 100).slope == pytest.approx(0, abs=0.05)


def test_t_interval():
    mean, half = mean_and_half_width([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / 3**0.5, abs=1e-3)
    assert mean_and_half_width([1.0]) == (1.0, math.inf)


def made_up(cell: LinearCell, frequency: float, optimism: float = 0.1) -> LinearOutcome:
    return LinearOutcome(cell, round(frequency * cell.samples), 0.3, 0.3 + optimism, optimism, 0.001, 1.0)


def verdicts(slope: float, plain: float, hidden: float, optimism: tuple[float, ...]) -> list[str]:
    cell = replace(CELL, samples=1000)
    hr = [replace(cell, r=r_n / 50, worst=worst) for worst in ("support", "sample") for r_n in (0.5, 1, 2, 3)]
    rates = [made_up(replace(cell, worst="sample"), plain)]
    rates += [made_up(own, math.exp(-slope * own.r * own.n)) for own in hr]
    corruptions = [
        made_up(replace(cell, r=0.04, alpha=alpha, worst=worst, corruption=corruption, fraction=0.1), hidden)
        for corruption in ("hide", "flip")
        for worst in ("support", "sample")
        for alpha in (0.0, 0.1)
    ]
    radii = [replace(cell, problem=replace(PROBLEM, eps=0.1 * i)) for i in range(len(optimism))]
    curve = [made_up(own, 0.9, value) for own, value in zip(radii, optimism, strict=True)]
    return [finding.verdict for finding in linear_findings(rates, corruptions, curve)]


def test_verdicts_follow_the_numbers():
    good, bad = "reproduced", "not reproduced"
    assert verdicts(1.2, 0.9, 0.05, (0.1, 0.2, 0.3)) == [good] * 7
    assert verdicts(0.3, 0.4, 0.6, (0.3, 0.2, 0.1)) == [bad] * 7
    assert verdicts(1.0, 0.9, 0.05, (0.1, 0.3, 0.2))[-1] == "partly"
