"""How the rate adapts, in virtual time: `python -m tests.benchmarks.simulated_flow [--json]`.

The same scenarios as in `flow.py`, without sockets and clocks, so that two variants of the algorithm compare exactly and
within seconds. Slots, latency, late timers and the engine's token bucket are simulated; the decisions are the real ones.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from tensorpool_async.protocol.adaptive_rate import AdaptiveRate


SLOTS = 32
LATE = 0.001
"""Seconds that a timer of the event loop is late, at most."""


@attrs.define
class Simulation:
    """A client that always has something to send, and an engine behind a hidden token bucket. Times are seconds.

    Attributes:
        engine_rate: Requests per second that the bucket lets in.
        burst: The bucket's size.
        latency: From sending a request to its answer.
        stalls: How long the engine, or the client, does not run from time to time, on average, as on a busy machine.
        rate: What decides; the one to be measured.
        answers: When each request was answered, and whether it was let through.
    """

    engine_rate: float
    burst: float
    latency: float
    rate: Any = attrs.field(factory=AdaptiveRate)
    seed: int = 1
    stalls: float = 0.0
    slots: int = SLOTS
    now: float = 0.0
    answers: list[tuple[float, bool]] = attrs.field(factory=list[tuple[float, bool]])
    _under_way: list[tuple[float, int, float, bool, float]] = attrs.field(
        init=False, factory=list[tuple[float, int, float, bool, float]]
    )
    _number: Iterator[int] = attrs.field(init=False, factory=itertools.count)
    _tokens: float = attrs.field(init=False)
    _filled_at: float = attrs.field(init=False, default=0.0)
    _random: random.Random = attrs.field(init=False)
    _stall: tuple[float, float] = attrs.field(init=False, default=(0.0, 0.0))
    _stalled_until: float = attrs.field(init=False, default=0.0)

    def __attrs_post_init__(self) -> None:
        self._tokens = self.burst
        self._random = random.Random(self.seed)

    def run(self, until: float) -> None:
        """Go on until then."""
        while True:
            ready_at, paced = self.now, False
            if self.rate.ready_at > self.now:
                ready_at, paced = self.rate.ready_at + self._random.random() * LATE, True
            if len(self._under_way) >= self.slots:
                ready_at = math.inf
            answer_at = self._under_way[0][0] if self._under_way else math.inf
            self.now = max(self.now, min(ready_at, answer_at), self._stalled_until)
            if self.stalls and self._random.random() < 0.01:
                self._stalled_until = self.now + self._random.expovariate(1.0 / self.stalls)
            if self.now >= until:
                self.now = until
                return
            if answer_at <= ready_at:
                self._answer(waited=paced)
            else:
                self._send()

    def set_rate(self, engine_rate: float) -> None:
        """Change what the engine allows, from now on."""
        self._fill(self.now)
        self.engine_rate = engine_rate

    def _fill(self, now: float) -> None:
        if now > self._filled_at:
            self._tokens = min(self.burst, self._tokens + (now - self._filled_at) * self.engine_rate)
            self._filled_at = now

    def _send(self) -> None:
        self.rate.record_send(self.now)
        arrives_at = self._after_stall(self.now + self.latency / 2)
        self._fill(arrives_at)
        passed = self._tokens >= 1.0
        self._tokens -= passed
        wait = 0.0 if passed else max(1.0, math.ceil((1.0 - self._tokens) / self.engine_rate))
        latency = self.latency / 2 * (1.0 + 0.4 * self._random.random())
        heapq.heappush(self._under_way, (arrives_at + latency, next(self._number), self.now, passed, wait))

    def _after_stall(self, at: float) -> float:
        """Return when the engine reads what arrives then: at the end of the stall, if it is in one."""
        start, end = self._stall
        while self.stalls and end < at:
            start = end + self._random.expovariate(1.0)
            end = start + self._random.expovariate(1.0 / self.stalls)
            self._stall = start, end
        return end if self.stalls and start < at else at

    def _answer(self, *, waited: bool) -> None:
        _, _, sent_at, passed, wait = heapq.heappop(self._under_way)
        self.answers.append((self.now, passed))
        if passed:
            self.rate.passed(sent_at, waited=waited)
        else:
            self.rate.throttled(self.now, sent_at, wait)

    def used(self, start: float, end: float, allowed: float) -> float:
        """Return the share of what was allowed that was let through."""
        return sum(passed for at, passed in self.answers if start < at <= end) / allowed

    def refused(self, start: float, end: float) -> float:
        """Return the share of answers that were 429."""
        answers = [passed for at, passed in self.answers if start < at <= end]
        return answers.count(False) / max(1, len(answers))


SEEDS = range(1, 6)
MACHINES = ((0.004, 0.0), (0.1, 0.0), (0.004, 0.05))
"""Latency, and how long the engine or the client does not run about once in a second."""


def median(values: list[float]) -> float:
    """Return the one in the middle."""
    return sorted(values)[len(values) // 2]


def steady(
    make: Callable[[], Any], engine_rate: float, burst: float, latency: float, stalls: float
) -> dict[str, float]:
    """Run against a limit that stays, for 40 seconds."""
    runs = [Simulation(engine_rate, burst, latency, make(), seed, stalls) for seed in SEEDS]
    for run in runs:
        run.run(40.0)
    return {
        "used": median([run.used(0, 40, engine_rate * 40 + burst) for run in runs]),
        "used after 5 s": median([run.used(5, 40, engine_rate * 35) for run in runs]),
        "429 after 5 s": median([run.refused(5, 40) for run in runs]),
    }


def lasting(
    make: Callable[[], Any], engine_rate: float, burst: float, latency: float, stalls: float
) -> dict[str, float]:
    """Run against a limit that stays, from the first minute to the fifth."""
    runs = [Simulation(engine_rate, burst, latency, make(), seed, stalls) for seed in SEEDS]
    for run in runs:
        run.run(300.0)
    return {
        "used, 1 to 5 min": median([run.used(60, 300, engine_rate * 240) for run in runs]),
        "429, 1 to 5 min": median([run.refused(60, 300) for run in runs]),
    }


def fall(
    make: Callable[[], Any], engine_rate: float, burst: float, latency: float, stalls: float
) -> dict[str, float]:
    """Let the limit fall to a fifth for 20 seconds."""
    backs, lows, waits = list[float](), list[float](), list[float]()
    for seed in SEEDS:
        run = Simulation(engine_rate, burst, latency, make(), seed, stalls)
        run.run(20.0)
        run.set_rate(engine_rate / 5)
        run.run(40.0)
        run.set_rate(engine_rate)
        while (run.rate.rate or math.inf) < 0.8 * engine_rate and run.now < 100.0:
            run.run(run.now + 0.1)
        backs.append(run.now - 40.0)
        lows.append(run.used(20.0, 40.0, engine_rate / 5 * 20.0))
        waits.append(run.refused(20.0, 40.0))
    return {"back after": median(backs), "used in the fall": median(lows), "429 in the fall": median(waits)}


def figures(make: Callable[[], Any] = AdaptiveRate) -> dict[str, float]:
    """Return all figures."""
    found: dict[str, float] = {}
    for latency, stalls in MACHINES:
        for engine_rate, burst in ((10.0, 10.0), (50.0, 10.0), (50.0, 50.0), (200.0, 40.0)):
            where = (
                f"{engine_rate:g}/s, burst {burst:g}, {latency * 1000:g} ms{', stalls' if stalls else ''}: "
            )
            for scenario in (steady, lasting, fall):
                for name, value in scenario(make, engine_rate, burst, latency, stalls).items():
                    found[where + name] = value
    return found


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    found = figures()
    if parser.parse_args().json:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:<62} {value:8.3f}")


if __name__ == "__main__":
    main()
