"""The steady load of benchmarks that change the node while it serves, and what became of each of its requests."""

from __future__ import annotations

import collections
import dataclasses
import enum
import errno
import struct
import subprocess
from pathlib import Path

from tests.peers.process import Peer, PeerFailedError, program
from tests.support.processes import wait_until

SOURCE = Path(__file__).with_suffix(".c")
RECORD = struct.Struct("=qiiii")
READY_LIMIT_S = 30.0


class Fate(enum.IntEnum):
    """As in paced.c."""

    ANSWERED = 0
    OTHER_STATUS = 1
    CUT = 2
    UNANSWERED = 3
    CONNECTED = 4
    NOT_CONNECTED = 5
    ENDED_IDLE = 6
    """A connection that the node closed between two requests: no failure."""


FAILURES = frozenset({Fate.OTHER_STATUS, Fate.CUT, Fate.UNANSWERED, Fate.NOT_CONNECTED})


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What became of a request, a connect or an idle connection. `started_us` is CLOCK_MONOTONIC."""

    started_us: int
    took_us: int
    late_us: int
    """How much later than planned the generator itself was; not in `took_us`."""
    fate: Fate
    detail: int
    """The status, or errno."""

    @property
    def failure(self) -> str:
        """In words, for counting."""
        word = self.fate.name.lower().replace("_", " ")
        return f"{word} {self.detail}" if self.fate is Fate.OTHER_STATUS else f"{word} {errno.errorcode.get(self.detail, '')}".strip()


@dataclasses.dataclass(frozen=True)
class Figures:
    """A load as it was in a span of time. Latencies are of answered requests, from when the generator would have sent them."""

    rate_per_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    late_p99_ms: float
    connects: int
    slowest_connect_ms: float
    failures: dict[str, int]

    @property
    def failed(self) -> int:
        return sum(self.failures.values())


def figures(records: list[Record], since_s: float, until_s: float) -> Figures:
    """Of what was started within the span."""
    within = [record for record in records if since_s * 1e6 <= record.started_us < until_s * 1e6]
    answered = [record for record in within if record.fate is Fate.ANSWERED]
    took = sorted(record.took_us for record in answered)
    connects = [record.took_us for record in within if record.fate is Fate.CONNECTED]
    return Figures(
        rate_per_s=len(answered) / (until_s - since_s),
        p50_ms=percentile(took, 0.50) / 1e3,
        p99_ms=percentile(took, 0.99) / 1e3,
        max_ms=max(took, default=0) / 1e3,
        late_p99_ms=percentile(sorted(record.late_us for record in answered), 0.99) / 1e3,
        connects=len(connects),
        slowest_connect_ms=max(connects, default=0) / 1e3,
        failures=dict(collections.Counter(record.failure for record in within if record.fate in FAILURES)),
    )


def percentile(ordered: list[int], fraction: float) -> float:
    """0 of an empty list."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))] if ordered else 0.0


class Paced(Peer):
    """`rate_per_s` requests a second to `port` over `connections` keep-alive connections, whatever the answers do, until it is stopped.

    With `services` they go to `/service-N/x` in turn. A request that finds no idle connection waits for one, and its wait counts.
    """

    name = "paced"

    def __init__(self, directory: Path, port: int, connections: int, rate_per_s: float, services: int = 0, cpus: set[int] | None = None):
        super().__init__(directory, cpus)
        self.port = port
        self.connections = connections
        self.rate_per_s = rate_per_s
        self.services = services
        subprocess.run([program("gcc", "gcc"), "-O2", "-o", str(directory / "paced"), str(SOURCE)], check=True)

    @property
    def records_file(self) -> Path:
        return self.directory / "records"

    def command(self) -> list[str]:
        numbers = [self.port, self.connections, self.rate_per_s, self.services]
        return [str(self.directory / "paced"), *map(str, numbers), str(self.records_file)]

    def wait_ready(self) -> None:
        if not wait_until(lambda: "ready" in self.output(), READY_LIMIT_S, self.pid):
            raise PeerFailedError(f"the load has no {self.connections} connections to port {self.port}: {self.output()[-500:]}")

    def records(self) -> list[Record]:
        """All that happened; after `stop`."""
        return [Record(*times, Fate(fate), detail) for *times, fate, detail in RECORD.iter_unpack(self.records_file.read_bytes())]
