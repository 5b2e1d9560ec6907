"""Rounds: every proxy in turn, several times over, so that what the machine does meanwhile is shared by all."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from pathlib import Path

from bench.loads import Load
from bench.measure import Sample, sample
from bench.stage import Processors, filter_stage, stage

WARM_UP_S = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """Medians of one load through one proxy; `cpu_spread` are the lowest and highest CPU per request of its rounds."""

    peer: str
    cpu_us_per_request: float
    cpu_spread: tuple[float, float]
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    pss_mb: float
    busy: float
    failed: int


def row(peer: str, samples: list[Sample]) -> Row:
    """The medians of some rounds; failures are added up."""

    def median(name: str) -> float:
        return statistics.median(getattr(one, name) for one in samples)

    costs = [one.cpu_us_per_request for one in samples]
    return Row(
        peer, median("cpu_us_per_request"), (min(costs), max(costs)), median("rate_per_s"), median("p50_ms"), median("p99_ms"),
        median("pss_bytes") / 1e6, median("busy"), sum(one.failed for one in samples),
    )  # fmt: skip


def run(directory: Path, load: Load, names: list[str], seconds: float, rounds: int, tell: Callable[[str], None]) -> list[Row]:
    """A load through every proxy of `names`."""
    if load.workers > 1:
        return _against_one_worker(directory, load, names, seconds, rounds, tell)
    if load.filtered:
        with filter_stage(directory, load) as peers:
            return _turns(peers, load, seconds, rounds, tell)
    with stage(directory, load, names) as peers:
        return _turns(peers, load, seconds, rounds, tell)


def _turns(peers: dict, load: Load, seconds: float, rounds: int, tell: Callable[[str], None]) -> list[Row]:
    driver = Processors(load).driver
    samples: dict[str, list[Sample]] = {label: [] for label in peers}
    for peer in peers.values():
        sample(load, peer.pid, peer.port, WARM_UP_S, driver)
    for turn in range(rounds):
        for label, peer in peers.items():
            samples[label].append(sample(load, peer.pid, peer.port, seconds, driver))
            tell(f"{load.name} round {turn + 1}/{rounds} {label}: {samples[label][-1].cpu_us_per_request:.1f} us")
    return [row(label, measured) for label, measured in samples.items()]


def _against_one_worker(
    directory: Path, load: Load, names: list[str], seconds: float, rounds: int, tell: Callable[[str], None]
) -> list[Row]:
    with stage(directory / "one", load, names, workers=1) as single, stage(directory / "more", load, names) as several:
        peers = {f"{name} x1": peer for name, peer in single.items()}
        peers |= {f"{name} x{load.workers}": peer for name, peer in several.items()}
        return _turns(dict(sorted(peers.items())), load, seconds, rounds, tell)
