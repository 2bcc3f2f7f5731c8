"""Row 12: a curve of random-features theory, beside root finding from random starts on the same six equations.

``python -m bench.rates.theory`` writes ``bench/results/theory/random-features-rate.json``: seconds of a curve of 100
points on one thread, the largest certified error, and for a few of the points the time that scipy's hybrid Powell
method takes from random starts until a start converges, and how many starts do. With our form of the equations, in
logarithms, nearly every start does, in less time than ours: what the nested search adds is that it cannot miss, and the
certificate, in any corner of the domain.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import root

from bench.reports.files import RESULTS, commit
from fastat.support.files import write_json
from fastat.theory.random_features import asymptotics, curve
from fastat.theory.random_features.envelope import envelope
from fastat.theory.random_features.spectrum import spectrum, unexplained

PSI2, EPS, TAU = 2.0, 0.3, 0.3
_CURVES, _RIVALS, _STARTS = 5, (0.5, 1.0, 3.0, 5.0, 10.0, 30.0), 300
_REPEATS = 20


def main() -> None:
    """Measures, writes the file and prints it."""
    grid = np.geomspace(0.1, 50, 100).tolist()
    seconds = []
    for _ in range(_CURVES):
        began = time.perf_counter()
        found = curve("psi1", grid, psi2=PSI2, eps=EPS, tau=TAU)
        seconds.append(time.perf_counter() - began)
    results: dict[str, Any] = {
        "machine": platform.processor() or platform.machine(),
        "cpu_threads_used": 1,
        "cores": os.cpu_count(),
        "commit": commit(),
        "curve": {"points": len(grid), "seconds_median": statistics.median(seconds), "seconds_all": seconds},
        "largest_certified_error": max(point.error for point in found.points),
        "random_starts": [_rival(psi1) for psi1 in _RIVALS],
    }
    target: Path = RESULTS / "theory" / "random-features-rate.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, results)
    print(target.read_text())


def _rival(psi1: float) -> dict[str, Any]:
    """Root finding from random starts, and our own time, on one point."""
    own = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        ours = asymptotics(psi1, PSI2, EPS, TAU).adversarial_risk
        own.append(time.perf_counter() - began)
    rho, random = spectrum(psi1, 64), np.random.default_rng(0)
    sigma2, a = unexplained(psi1, TAU, rho), EPS**2 * rho.j

    def equations(logs: np.ndarray) -> np.ndarray:
        a2, s, k, beta2, mu, g = np.exp(np.clip(logs, -40, 40))
        d = mu + g * a / rho.k
        e = envelope(k, s / math.sqrt(a2))
        spread = beta2 / PSI2
        alpha2 = psi1 * float(rho.weight @ ((spread + (g * a) ** 2 * rho.t / rho.k) / d**2))
        s2 = psi1 * float(rho.weight @ ((spread / rho.k + mu**2 * rho.t) * a / d**2))
        right = (e.scale, e.radius, a2 * e.variance, psi1 / PSI2 * float(rho.weight @ (1 / d)), alpha2 + sigma2, s2)
        return np.log([mu, g, beta2, k, a2, s**2]) - np.log(right)

    began, solved = time.perf_counter(), 0
    for _ in range(_STARTS):
        found = root(equations, random.normal(0, 2, 6), tol=1e-10)
        a2, s = np.exp(found.x[:2])
        risk = a2 + 2 * math.sqrt(2 / math.pi * a2) * s + s * s
        solved += bool(found.success and abs(risk - ours) < 1e-4)
    each = (time.perf_counter() - began) / _STARTS
    share = solved / _STARTS
    expected = each / share if share else None
    return {
        "psi1": psi1, "ours_seconds": statistics.median(own), "starts": _STARTS, "starts_that_converge": solved,
        "seconds_per_start": each, "expected_seconds_until_one_converges": expected,
        "times_ours": None if expected is None else expected / statistics.median(own),
    }  # fmt: skip


if __name__ == "__main__":
    main()
