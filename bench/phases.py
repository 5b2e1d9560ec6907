"""Phases of a load that changes the node, and what several rounds of them say."""

from __future__ import annotations

import collections
import dataclasses
import statistics

from bench.paced import Figures


@dataclasses.dataclass(frozen=True)
class Phase:
    """A span of one round: the load through the node, the one past it, and how many processors' time went to what is not ours."""

    name: str
    seconds: float
    through: Figures
    direct: Figures
    elsewhere: float


@dataclasses.dataclass(frozen=True)
class PhaseRow:
    """A phase of all rounds: medians, but `max_ms`, `slowest_connect_ms` and `elsewhere` are the highest, and failures are added up.

    `p99_ratio` and `direct_ratio` are to the first phase of the same round.
    """

    phase: str
    seconds: float
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    p99_spread: tuple[float, float]
    max_ms: float
    p99_ratio: float
    direct_p99_ms: float
    direct_ratio: float
    connects: int
    slowest_connect_ms: float
    elsewhere: float
    failed: int
    failures: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Changed:
    """A load that changes the node, all its rounds. `facts` have one value for each."""

    phases: list[PhaseRow]
    facts: dict[str, list[float]]


def rows(rounds: list[list[Phase]]) -> list[PhaseRow]:
    """Each round has the same phases in the same order."""
    return [_row(list(phases), [phases[0] for phases in rounds]) for phases in zip(*rounds, strict=True)]


def _row(phases: list[Phase], first: list[Phase]) -> PhaseRow:
    through = [phase.through for phase in phases]
    tails = [seen.p99_ms for seen in through]
    failures = sum((collections.Counter(seen.failures) for seen in through), collections.Counter())
    return PhaseRow(
        phase=phases[0].name,
        seconds=statistics.median(phase.seconds for phase in phases),
        rate_per_s=statistics.median(seen.rate_per_s for seen in through),
        p50_ms=statistics.median(seen.p50_ms for seen in through),
        p99_ms=statistics.median(tails),
        p99_spread=(min(tails), max(tails)),
        max_ms=max(seen.max_ms for seen in through),
        p99_ratio=statistics.median(_ratio(now.through, then.through) for now, then in zip(phases, first, strict=True)),
        direct_p99_ms=statistics.median(phase.direct.p99_ms for phase in phases),
        direct_ratio=statistics.median(_ratio(now.direct, then.direct) for now, then in zip(phases, first, strict=True)),
        connects=round(statistics.median(seen.connects for seen in through)),
        slowest_connect_ms=max(seen.slowest_connect_ms for seen in through),
        elsewhere=max(phase.elsewhere for phase in phases),
        failed=failures.total(),
        failures=dict(failures),
    )


def _ratio(now: Figures, then: Figures) -> float:
    return now.p99_ms / then.p99_ms if then.p99_ms else 0.0
