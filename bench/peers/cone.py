"""HR weights as the cone program that the published implementation solves for every batch.

The problem is posed once, with the losses and their maximum as parameters (cvxpy's disciplined parametrized programs),
so that a solve pays for the solver and for little else.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.contests.contest import NotHere

Losses = NDArray[np.float32]
Solve = Callable[[Losses], tuple[float, NDArray[np.float64]]]

SOLVERS = {"ECOS": "ECOS", "Clarabel": "CLARABEL"}
"""Names of the contenders, and what cvxpy calls them; ECOS is what the published implementation asks first."""


def holistic(solver: str, n: int, alpha: float, r: float, order: str) -> Solve:
    """``losses -> (value, probabilities of the n losses and of the worst case)`` by the solver of that name.

    Raises:
        NotHere: cvxpy or the solver is not installed.
    """
    try:
        import cvxpy as cp
    except ImportError:
        raise NotHere("cvxpy is not installed") from None
    if SOLVERS[solver] not in cp.installed_solvers():
        raise NotHere(f"cvxpy finds no {solver}")
    losses, worst = cp.Parameter(n), cp.Parameter()
    p, q = cp.Variable(n + 1, nonneg=True), cp.Variable(n + 1, nonneg=True)
    moved = cp.Variable(n, nonneg=True)  # mass that becomes worst case
    rules = [cp.sum(p) == 1, cp.sum(moved) <= alpha]
    if order == "hd":
        rules += [q[:n] + moved == 1 / n, q[n] == cp.sum(moved), cp.sum(cp.rel_entr(q, p)) <= r]
    else:
        uniform = np.full(n, 1 / n)
        rules += [cp.sum(q) == 1, cp.sum(cp.rel_entr(uniform, q[:n])) <= r]
        rules += [p[:n] + moved == q[:n], p[n] == q[n] + cp.sum(moved)]
    problem = cp.Problem(cp.Maximize(p[:n] @ losses + p[n] * worst), rules)
    assert problem.is_dpp()

    def solve(values: Losses) -> tuple[float, NDArray[np.float64]]:
        losses.value, worst.value = values, values.max()
        return problem.solve(solver=SOLVERS[solver]), p.value

    return solve
