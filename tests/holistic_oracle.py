"""The HR value of a few losses by other means than ours: mpmath, and a cone solver."""

import mpmath
import numpy as np
import pytest


def oracle(losses, alpha, r, order):
    """The definition, in 60 digits."""
    with mpmath.workdps(60):
        values = sorted(mpmath.mpf(v) for v in losses)
        alpha, r, n = mpmath.mpf(alpha), mpmath.mpf(r), len(values)
        top, uniform = values[-1], [mpmath.mpf(1) / n] * n
        if values[0] == top:
            return top
        if order == "hd":
            left, masses = alpha, list(uniform)
            for i in range(n):  # from the smallest
                taken = min(left, masses[i])
                masses[i], left = masses[i] - taken, left - taken
            masses[-1] += alpha
            return kl_value(values, masses, r)

        def cost(mu):
            return mu * alpha + kl_value([max(v, top - mu) for v in values], uniform, r)

        low, high = mpmath.mpf(0), top - values[0]
        inverse_golden = (mpmath.sqrt(5) - 1) / 2
        for _ in range(55):  # the cost is convex: a golden section, to (0.618^55) of the range
            a, b = high - inverse_golden * (high - low), low + inverse_golden * (high - low)
            low, high = (low, b) if cost(a) < cost(b) else (a, high)
        return cost((low + high) / 2)


def kl_value(values, masses, r):
    """max p.v over KL(masses || p) <= r, by its dual: min over eta of eta - exp(-r) prod (eta - v)^q."""
    top = max(values)
    if r == 0 or min(v for v, q in zip(values, masses, strict=True) if q > 0) == top:
        return mpmath.fsum(q * v for q, v in zip(masses, values, strict=True))
    spread = top - min(values)
    atoms = [((top - v) / spread, q) for v, q in zip(values, masses, strict=True) if q > 0]

    def excess(log_c):
        c = mpmath.exp(log_c)
        divergence = mpmath.fsum(q * mpmath.log(c + w) for w, q in atoms)
        divergence += mpmath.log(mpmath.fsum(q / (c + w) for w, q in atoms))
        return mpmath.log(mpmath.expm1(divergence)) - mpmath.log(mpmath.expm1(r))

    low = mpmath.mpf(-50)
    while excess(low) < 0:
        low *= 2
    c = mpmath.exp(mpmath.findroot(excess, (low, mpmath.mpf(45)), solver="anderson", tol=1e-50, verify=False))
    total = mpmath.fsum(q / (c + w) for w, q in atoms)
    return top - spread * mpmath.fsum(q * w / (c + w) for w, q in atoms) / total


def cone_value(losses, alpha, r, order):
    """The definition as a cone program."""
    cp = pytest.importorskip("cvxpy", reason="the cone program needs cvxpy")
    n, top = len(losses), losses.max()
    p, s, q, extra = (
        cp.Variable(n, nonneg=True),
        cp.Variable(n, nonneg=True),
        cp.Variable(n, nonneg=True),
        cp.Variable(),
    )
    if order == "hd":
        taken = cp.sum(s)
        divergence = cp.sum(cp.rel_entr(q, p)) + cp.rel_entr(taken, extra)
        rules = [q + s == 1 / n, taken <= alpha, cp.sum(p) + extra == 1, divergence <= r]
    else:
        worst = cp.Variable(nonneg=True)
        divergence = cp.sum(cp.rel_entr(np.full(n, 1 / n), q))
        rules = [cp.sum(q) + worst == 1, p + s == q, cp.sum(s) <= alpha, extra == worst + cp.sum(s), divergence <= r]
    problem = cp.Problem(cp.Maximize(losses @ p + top * extra), rules)
    problem.solve(solver=cp.CLARABEL)
    return problem.value
