"""Rounds: every proxy in turn, several times over, so that what the machine does meanwhile is shared by all."""

from __future__ import annotations

import dataclasses
import functools
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from bench import grpc, http2, tcp, tls
from bench.loads import GrpcLoad, Load, TcpLoad, TlsLoad
from bench.measure import Sample, Seen, sample, wrk
from bench.stage import Processors, filter_stage, stage, tracing_stage
from tests.peers.process import Peer

WARM_UP_S = 1


@dataclasses.dataclass(frozen=True)
class Row:
    """Medians of one load through one proxy; `cpu_spread` are the lowest and highest CPU of its rounds. A latency is None where the
    generator tells none."""

    peer: str
    cpu_us: float
    cpu_spread: tuple[float, float]
    rate_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    pss_mb: float
    busy: float
    failed: int


def row(peer: str, samples: list[Sample]) -> Row:
    """The medians of some rounds; failures are added up."""

    def median(name: str) -> float:
        return statistics.median(getattr(one, name) for one in samples)

    told = samples[0].p99_ms is not None
    costs = [one.cpu_us for one in samples]
    return Row(
        peer, median("cpu_us"), (min(costs), max(costs)), median("rate_per_s"), median("p50_ms") if told else None,
        median("p99_ms") if told else None, median("pss_bytes") / 1e6, median("busy"), sum(one.failed for one in samples),
    )  # fmt: skip


def drive(load: Load, peer: Peer, seconds: float) -> Seen:
    """Whichever generator the load is made by."""
    cpus = Processors(load).driver
    if isinstance(load, TcpLoad):
        return tcp.drive(load, peer, seconds, cpus)
    if isinstance(load, GrpcLoad):
        return grpc.drive(load, peer, seconds, cpus)
    if isinstance(load, TlsLoad):
        return http2.drive(load, peer.port, seconds, cpus) if load.streams else tls.drive(load, peer.port, seconds, cpus)
    return wrk(load, peer.port, seconds, cpus)


def _stage(directory: Path, load: Load, names: list[str]) -> AbstractContextManager[dict[str, Peer]]:
    if isinstance(load, TcpLoad):
        return tcp.stage(directory, names)
    if isinstance(load, GrpcLoad):
        return grpc.stage(directory, load, names)
    if isinstance(load, TlsLoad):
        return tls.stage(directory, load, names)
    if load.filtered or load.traced:
        return (filter_stage if load.filtered else tracing_stage)(directory, load)
    return stage(directory, load, names)


def run(directory: Path, load: Load, names: list[str], seconds: float, rounds: int, tell: Callable[[str], None]) -> list[Row]:
    """A load through every proxy of `names`."""
    if load.workers > 1:
        return _against_one_worker(directory, load, names, seconds, rounds, tell)
    with _stage(directory, load, names) as peers:
        return _turns(peers, load, seconds, rounds, tell)


def _turns(peers: dict[str, Peer], load: Load, seconds: float, rounds: int, tell: Callable[[str], None]) -> list[Row]:
    samples: dict[str, list[Sample]] = {label: [] for label in peers}
    for peer in peers.values():
        drive(load, peer, WARM_UP_S)
    for turn in range(rounds):
        for label, peer in peers.items():
            samples[label].append(sample(peer, functools.partial(drive, load, peer, seconds)))
            tell(f"{load.name} round {turn + 1}/{rounds} {label}: {samples[label][-1].cpu_us:.1f} us")
    return [row(label, measured) for label, measured in samples.items()]


def _against_one_worker(
    directory: Path, load: Load, names: list[str], seconds: float, rounds: int, tell: Callable[[str], None]
) -> list[Row]:
    with stage(directory / "one", load, names, workers=1) as single, stage(directory / "more", load, names) as several:
        peers = {f"{name} x1": peer for name, peer in single.items()}
        peers |= {f"{name} x{load.workers}": peer for name, peer in several.items()}
        return _turns(dict(sorted(peers.items())), load, seconds, rounds, tell)
