"""Random features: the asymptotic formulas against what is known of them, and robust training against other solvers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from fastat.theory.contract import Resources
from fastat.theory.random_features import asymptotics, critical_eps, curve, simulate
from fastat.theory.random_features.envelope import envelope
from fastat.theory.random_features.erm import robust_least_squares
from fastat.theory.random_features.experiment import PRESETS, Settings, cost, run
from fastat.theory.random_features.spectrum import spectrum, unexplained

# psi1, psi2, eps, tau, AR, SR, norm of J theta: solved by root finding from random starts, checked by simulation
KNOWN = [
    (0.5, 2, 0.3, 0.3, 1.1691, 0.8958, 0.5443),
    (1, 2, 0.3, 0.3, 1.1822, 0.7648, 0.8439),
    (3, 2, 0.3, 0.3, 1.3402, 0.7190, 1.2072),
]
ALONG = [(1, 1.182, 0.765), (2, 1.295, 0.715), (3, 1.340, 0.719), (4, 1.113, 0.618), (5, 1.000, 0.584),
         (7, 0.949, 0.601), (10, 0.961, 0.659), (15, 1.002, 0.740), (20, 1.033, 0.797), (30, 1.072, 0.870)]  # fmt: skip
CRITICAL = [(0.5, 2, 0.3, 0.7538), (1, 2, 0.3, 1.0133), (3, 2, 0.3, 1.4865), (1.5, 1.5, 0.2, 1.2881)]


@pytest.mark.parametrize("case", KNOWN)
def test_known_points(case: tuple[float, ...]) -> None:
    found = asymptotics(*case[:4])
    assert (found.adversarial_risk, found.standard_risk, found.jacobian_norm) == pytest.approx(case[4:], abs=1e-4)


@pytest.mark.parametrize(("psi1", "adversarial", "standard"), ALONG)
def test_the_curve_over_the_number_of_features(psi1: float, adversarial: float, standard: float) -> None:
    found = asymptotics(psi1, 2, 0.3, 0.3)
    assert (found.adversarial_risk, found.standard_risk) == pytest.approx((adversarial, standard), abs=6e-4)


@pytest.mark.parametrize(("psi1", "psi2", "tau", "limit"), CRITICAL)
def test_critical_radii(psi1: float, psi2: float, tau: float, limit: float) -> None:
    assert critical_eps(psi1, psi2, tau) == pytest.approx(limit, abs=1e-4)


def lagrangian(v: np.ndarray, psi1: float, psi2: float, eps: float, tau: float) -> float:
    """The saddle function of (alpha, s, t, beta, mu, g) as it is written, its integrals by adaptive quadrature."""
    alpha, s, t, beta, mu, g = v
    low, high = (1 - math.sqrt(psi1)) ** 2, (1 + math.sqrt(psi1)) ** 2

    def over_rho(f) -> float:
        def continuous(angle: float) -> float:
            x = (low + high) / 2 + (high - low) / 2 * math.cos(angle)
            return f(x) * 2 / math.pi * math.sin(angle) ** 2 / x

        return quad(continuous, 0, math.pi, epsabs=1e-13, epsrel=1e-13)[0] + max(1 - 1 / psi1, 0) * f(0)

    c = 1 - 2 / math.pi
    mass, stieltjes = over_rho(lambda x: 1.0), over_rho(lambda x: 1 / (x + c))
    assert mass == pytest.approx(1, abs=1e-10)
    a = math.sqrt(alpha**2 + tau**2 + 1 - psi1 * (1 - c * stieltjes))
    k = t / beta

    def sample(z: float) -> float:
        u = max(a * z - 2 * k * s, 0) / (1 + 2 * k)
        return 2 * ((a * z - u) ** 2 / (2 * k) + (u + s) ** 2) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    kink = 2 * k * s / a
    envelope_mean = quad(sample, 0, kink, epsabs=1e-13)[0] + quad(sample, kink, kink + 12, epsabs=1e-13)[0]
    kernel = lambda x: x / 4 + 0.25 - 1 / (2 * math.pi)  # noqa: E731
    jac = lambda x: eps**2 * (x + 1) / 4  # noqa: E731
    signal = lambda x: x / 4 / kernel(x) ** 2  # noqa: E731
    below = lambda x: mu + g * jac(x) / kernel(x)  # noqa: E731
    return (
        beta * t / 2
        + envelope_mean
        - psi1 / psi2 * beta**2 / 2 * over_rho(lambda x: 1 / below(x))
        - psi1 / 2 * over_rho(lambda x: (g * jac(x)) ** 2 * signal(x) / kernel(x) / below(x))
        + g * psi1 / 2 * over_rho(lambda x: jac(x) * signal(x))
        - mu * alpha**2 / 2
        - g * s**2 / 2
    )


@pytest.mark.parametrize("case", [(0.5, 2, 0.3, 0.3), (3, 2, 0.3, 0.3), (1, 1, 0.7, 0.0), (20, 0.5, 1.5, 1.0)])
def test_the_solution_is_a_stationary_point_of_the_saddle_function(case: tuple[float, ...]) -> None:
    saddle = asymptotics(*case).saddle
    assert saddle is not None
    at = np.array([saddle.alpha, saddle.s, saddle.t, saddle.beta, saddle.mu, saddle.g])
    size = abs(lagrangian(at, *case))
    for i in range(6):
        step = np.zeros(6)
        step[i] = 1e-4 * at[i]
        up, down = lagrangian(at + step, *case), lagrangian(at - step, *case)
        assert abs(up - down) / 2e-4 < 1e-4 * size  # the derivative to the logarithm


@given(
    st.floats(math.log(0.05), math.log(50)),
    st.floats(math.log(0.2), math.log(50)),
    st.floats(0, 3),
    st.floats(0, 2),
    st.sampled_from(["free", "equal", "near critical", "small eps", "eps 0"]),
)
@settings(max_examples=150, deadline=None)
def test_all_of_the_domain_is_certified(log1: float, log2: float, eps: float, tau: float, kind: str) -> None:
    psi1, psi2 = math.exp(log1), math.exp(log2)
    if kind == "equal":
        psi1, eps = psi2, max(eps, 1e-4)
    if kind == "near critical":
        eps = min(3.0, critical_eps(psi1, psi2, tau) * (1 - 10 ** -(1 + 3 * eps)))
    if kind == "small eps":
        eps = 10 ** -(2 + 2 * eps)
    if kind == "eps 0":
        eps = 0.0
    assume(eps > 1e-3 or abs(psi1 / psi2 - 1) > 1e-3)  # without attack the risk is infinite at psi1 = psi2
    found = asymptotics(psi1, psi2, eps, tau)
    assert found.residual < 1e-9 and found.error <= 1e-4 * max(1, found.adversarial_risk)
    assert found.adversarial_risk >= found.standard_risk > 0
    assert (found.jacobian_norm == 0) == (eps >= found.eps_c * (1 - 1e-13))


def test_at_the_critical_radius_the_model_vanishes_and_stays_zero() -> None:
    limit = critical_eps(1, 2, 0.3)
    below, beyond = asymptotics(1, 2, limit * (1 - 1e-9), 0.3), asymptotics(1, 2, limit * 1.01, 0.3)
    assert 0 < below.jacobian_norm < 1e-8 and below.adversarial_risk == pytest.approx(1.09, abs=1e-8)
    assert (beyond.adversarial_risk, beyond.standard_risk, beyond.jacobian_norm) == pytest.approx((1.09, 1.09, 0))
    assert beyond.saddle is None


@pytest.mark.parametrize("psi1", [0.5, 1.9, 2.1, 6.0])
def test_without_attack_is_the_limit_of_small_radii(psi1: float) -> None:
    zero, small = asymptotics(psi1, 2, 0, 0.3, eps_test=0.4), asymptotics(psi1, 2, 1e-7, 0.3, eps_test=0.4)
    assert zero.standard_risk == pytest.approx(small.standard_risk, rel=1e-5)
    assert zero.adversarial_risk == pytest.approx(small.adversarial_risk, rel=1e-5)
    assert zero.jacobian_norm == pytest.approx(small.jacobian_norm, rel=1e-5)


def test_least_squares_with_fewer_features_than_samples_has_its_textbook_risk() -> None:
    rho = spectrum(0.5, 64)
    assert asymptotics(0.5, 2, 0, 0.3).standard_risk == pytest.approx(unexplained(0.5, 0.3, rho) / (1 - 0.25))


def test_the_risk_of_another_radius_is_that_of_the_same_model() -> None:
    here, there = asymptotics(3, 2, 0.3, 0.3), asymptotics(3, 2, 0.3, 0.3, eps_test=0.0)
    assert there.adversarial_risk == there.standard_risk == here.standard_risk
    assert there.saddle == here.saddle


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0, 2, 0.3, 0.3), "psi1"),
        ((1, -1, 0.3, 0.3), "psi2"),
        ((1, 2, -0.1, 0.3), "eps"),
        ((1, 2, 0.3, math.nan), "tau"),
        ((1, 2, 0.3, 0.3, -1), "eps_test"),
        ((2, 2, 0, 0.3), "psi1 = psi2"),
        ((2, 2, 1e-30, 0.3), "psi1 = psi2"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: tuple[float, ...], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        asymptotics(*arguments)


def test_what_double_precision_cannot_answer_is_refused() -> None:
    with pytest.raises(ArithmeticError, match="certified"):
        asymptotics(2, 2, 1e-14, 0.3)  # risks of 1e12 there


def test_the_quadrature_integrates_the_law_of_eigenvalues() -> None:
    for psi1 in (0.3, 1.0, 7.0):
        rho = spectrum(psi1, 64)
        moments = [float(rho.weight @ rho.x**power) for power in (0, 1, 2)]
        assert moments == pytest.approx([1, 1, 1 + psi1], rel=1e-12)


def test_the_envelope_has_the_derivatives_it_says() -> None:
    def e(k: float, h: float) -> float:
        def sample(z: float) -> float:
            u = max(z - 2 * k * h, 0) / (1 + 2 * k)
            return 2 * ((z - u) ** 2 / (2 * k) + (u + h) ** 2) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

        return quad(sample, 0, 2 * k * h, epsabs=1e-13)[0] + quad(sample, 2 * k * h, 2 * k * h + 12, epsabs=1e-13)[0]

    for k, h in ((0.1, 0.2), (3.0, 0.4), (0.5, 2.0)):
        found, d = envelope(k, h), 1e-5
        by_k, by_h = ((e(k + d, h) - e(k - d, h)) / (2 * d), (e(k, h + d) - e(k, h - d)) / (2 * d))
        assert found.variance == pytest.approx(-2 * by_k, rel=1e-6)
        assert found.radius == pytest.approx(by_h / h, rel=1e-6)
        assert found.scale == pytest.approx(2 * e(k, h) - h * by_h, rel=1e-6)


def problem(trials: int, n: int, p: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(trials * n + p)
    psi = torch.randn(trials, n, p, dtype=torch.float64, generator=random)
    return psi, torch.randn(trials, n, dtype=torch.float64, generator=random)


@pytest.mark.parametrize(("n", "p", "eps"), [(60, 20, 0.3), (30, 30, 0.05), (40, 40, 0.5), (80, 16, 1e-3)])
def test_robust_least_squares_finds_what_a_cone_solver_finds(n: int, p: int, eps: float) -> None:
    cp = pytest.importorskip("cvxpy")
    psi, y = problem(2, n, p)
    found = robust_least_squares(psi, y, eps)
    for trial in range(2):
        v = cp.Variable(p)
        worst = cp.abs(y[trial].numpy() - psi[trial].numpy() @ v) + eps * cp.norm(v)
        value = cp.Problem(cp.Minimize(cp.sum_squares(worst) / n)).solve(solver="CLARABEL")
        assert float(found.value[trial]) == pytest.approx(value, rel=1e-6)
    assert float(found.gap.max()) < 1e-6 and float(found.gap.min()) > -1e-9


def test_robust_least_squares_returns_zero_exactly_where_it_is_optimal() -> None:
    psi, y = problem(3, 50, 10)
    limit = (y[:, None] @ psi)[:, 0].norm(dim=1) / y.abs().sum(1)
    beyond = robust_least_squares(psi, y, float(limit.max()) * 1.001)
    below = robust_least_squares(psi, y, float(limit.min()) * 0.98)
    assert float(beyond.v.abs().max()) == 0 and float(beyond.gap.max()) == 0
    assert float(below.v.norm(dim=1).min()) > 0


def test_a_problem_is_solved_alike_whatever_is_beside_it() -> None:
    psi, y = problem(3, 40, 20)
    together, alone = robust_least_squares(psi, y, 0.2), robust_least_squares(psi[1:2], y[1:2], 0.2)
    assert torch.allclose(together.value[1], alone.value[0], rtol=1e-7)


@pytest.mark.parametrize(("psi1", "eps"), [(0.5, 0.3), (1.0, 0.0), (3.0, 0.3), (4.0, 0.0), (1.0, 1.4)])
def test_simulations_lie_around_the_theory(psi1: float, eps: float) -> None:
    found, theory = simulate(psi1, 2, eps, 0.3, 60, 12), asymptotics(psi1, 2, eps, 0.3)
    for name in ("adversarial_risk", "standard_risk", "jacobian_norm"):
        values, expected = np.array(getattr(found, name)), getattr(theory, name)
        error = values.std(ddof=1) / len(values) ** 0.5
        assert abs(values.mean() - expected) < 4 * error + 0.05 * expected + 1e-12
    assert max(found.gap) < 1e-6


@pytest.mark.parametrize("eps", [1e-4, 1e-3, 1e-2, 0.1])
@pytest.mark.parametrize("psi1", [0.2, 0.5, 1.0, 4.0])
def test_small_radii_are_certified_too(psi1: float, eps: float) -> None:
    assert max(simulate(psi1, 2, eps, 0.3, 50, 4, seed=7).gap) < 1e-6


def test_numbers_of_numpy_are_numbers() -> None:
    exact = asymptotics(1, 2, 0.25, 0.5)
    assert asymptotics(np.float32(1), np.int64(2), np.float32(0.25), torch.tensor(0.5)) == exact
    assert type(exact.adversarial_risk) is float
    assert simulate(1, 2, 0.3, 0.3, np.int64(10), 2) == simulate(1, 2, 0.3, 0.3, 10, 2)
    with pytest.raises(TypeError):
        simulate(1, 2, 0.3, 0.3, 10.5, 2)


def test_what_is_smaller_than_rounding_is_no_attack() -> None:
    assert asymptotics(1, 2, 1e-150, 0.3) == asymptotics(1, 2, 0, 0.3, eps_test=1e-150)


def test_a_trial_depends_on_its_number_alone() -> None:
    five, two = simulate(1, 2, 0.3, 0.3, 20, 5, trials_at_once=3), simulate(1, 2, 0.3, 0.3, 20, 2, trials_at_once=1)
    assert five.adversarial_risk[:2] == pytest.approx(two.adversarial_risk, rel=1e-5)
    assert len(set(five.adversarial_risk)) == 5
    assert simulate(1, 2, 0.3, 0.3, 20, 2, seed=1).standard_risk != two.standard_risk


@pytest.mark.parametrize(
    ("change", "named"), [({"d": 1}, "d must"), ({"n_trials": 0}, "n_trials"), ({"eps": -1}, "eps")]
)
def test_simulations_name_a_bad_argument(change: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        simulate(**{"psi1": 1, "psi2": 2, "eps": 0.3, "tau": 0.3, "d": 20, "n_trials": 2, **change})


def test_a_curve_peaks_falls_and_rises() -> None:
    found = curve("psi1", np.geomspace(0.5, 50, 60).tolist(), psi2=2, eps=0.3, tau=0.3)
    marks = found.landmarks()
    assert marks.peak is not None and 2.3 < marks.peak < 3 and 6.5 < marks.minimum < 8.5 and marks.rise > 0.1
    assert found.points[0] == asymptotics(found.values[0], 2, 0.3, 0.3)


def test_a_curve_without_a_peak_has_no_landmarks() -> None:
    assert curve("psi2", [1, 2, 4], psi1=0.5, eps=0.1).landmarks().peak is None


def test_processes_do_not_change_a_curve() -> None:
    with joblib.parallel_config(n_jobs=2):
        both = curve("eps", [0.0, 0.2, 2.0], psi1=1)
    assert both == curve("eps", [0.0, 0.2, 2.0], psi1=1)


@pytest.mark.parametrize(
    ("vary", "values", "named"), [("d", [1], "vary"), ("psi1", [2, 1], "rise"), ("eps", [], "rise")]
)
def test_a_curve_names_a_bad_argument(vary: str, values: list[float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        curve(vary, values)


SMALL = Settings(eps=(0.3,), points=40, simulated_psi1=(1.0, 4.0), radius_psi1=(1.0,), d=(10, 20), trials=3)


def test_the_experiment_runs_continues_and_saves(tmp_path: Path) -> None:
    first = run(SMALL, tmp_path, Resources(device="cpu"))
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cells").glob("*.json")}
    next(iter(kept)).unlink()
    assert run(SMALL, tmp_path, Resources(device="cpu")) == first
    assert sum(file.stat().st_mtime_ns != before for file, before in kept.items()) == 1
    first.save(tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["findings"][0]["verdict"] == "reproduced"
    assert all((tmp_path / "figures" / picture["file"]).stat().st_size > 10_000 for picture in results["figures"])
    assert len(results["simulated"]) == 4 and results["simulated"][0]["d"] == 10


@pytest.mark.parametrize(
    ("change", "named"),
    [({"eps": ()}, "eps"), ({"points": 2}, "points"), ({"d": (20, 10)}, "d must"), ({"psi1_from": 60.0}, "psi1_from"),
     ({"eps": (0.0,)}, "simulated_psi1"), ({"eps": (0.3, 0.3)}, "eps must"), ({"psi2": -1.0}, "psi2"),
     ({"tau": math.nan}, "tau"), ({"radius_psi1": (2.0,)}, "radius_psi1")],
)  # fmt: skip
def test_settings_out_of_range_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(PRESETS["quick"], **change)


def test_the_cost_counts_what_is_run() -> None:
    few = replace(SMALL, simulated_psi1=(1.0,), radius_parts=(0.5,), radius_psi1=(3.0,))
    assert cost(few).startswith(
        "80 theoretical points (milliseconds each), and 4 x 3 simulated trainings with 10 to 60"
    )


def test_a_curve_that_falls_to_its_end_has_no_minimum() -> None:
    marks = curve("psi1", np.geomspace(0.5, 50, 60).tolist(), psi2=2, eps=0.6, tau=0.3).landmarks()
    assert marks.peak is not None and marks.minimum is None and marks.rise is None
