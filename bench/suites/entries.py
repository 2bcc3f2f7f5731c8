"""From a contest's recorded times to entries of pytest-benchmark, one per contender.

All contenders of a case are timed together, in turns (:mod:`bench.contests.timing`); an entry replays its contender's
times on a clock of its own, which gives them pytest-benchmark's statistics, groups and JSON.
"""

import pytest

from bench.contests.contest import Outcome


class ReplayClock:
    """A clock that stands still until it is told that time has passed."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Lets that much time pass."""
        self.now += seconds


clock = ReplayClock()


def record(benchmark, outcome: Outcome, who: str) -> None:
    """Enters the times of one contender, or skips with the reason why there are none."""
    if who not in outcome.times:
        pytest.skip(outcome.missing.get(who, "not part of this case"))
    benchmark.group = f"{outcome.label['title']}, {outcome.label['case']}"
    benchmark.extra_info.update(outcome.label, who=who, facts=outcome.facts[who], bytes=outcome.bytes)
    times = iter(outcome.times[who])
    benchmark.pedantic(clock.advance, setup=lambda: ((next(times),), {}), rounds=len(outcome.times[who]))
