"""The scene of loads that change the node while it serves: a steady load through it, a small one past it, and phases that tell them apart.

The small one goes straight to the origin. What it suffers in a phase, the machine did to everybody: with few processors the node shares
them with its clients, its origin, and whoever else is there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from bench.loads import LOADS
from bench.measure import TICKS_PER_S, cpu_seconds, drive
from bench.paced import Paced, figures
from bench.phases import Phase
from bench.stage import Processors
from tests.peers.origin import Origin
from tests.peers.process import free_ports
from tests.support.processes import Node

CONNECTIONS = 1000
DIRECT_CONNECTIONS = 50
WORKERS = 2
SHARE_OF_CAPACITY = 0.3
"""So that there is room for what a change costs: what is measured is the node's manners and not a machine that is full."""
DIRECT_SHARE = 0.05
CAPACITY_S = 2
WARM_UP_S = 2

Configuration = dict[str, Any] | str


@dataclasses.dataclass(frozen=True)
class Span:
    """A phase before its records are read. Times are CLOCK_MONOTONIC's."""

    name: str
    since_s: float
    until_s: float
    elsewhere: float


class Steady:
    """A node with two workers under load. `configuration(port, origin_port, mark)` is what it runs on; each mark makes it another one."""

    def __init__(self, directory: Path, configuration: Callable[[int, int, str], Configuration], services: int = 0) -> None:
        self._directory = directory
        self._configuration = configuration
        self._services = services
        self._cpus = Processors(LOADS["workers"]).proxy
        self._spans: list[Span] = []
        self._marks = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self.origin = stack.enter_context(Origin(self._directory / "origin", self._cpus))
            (self.port,) = free_ports(1)
            self.node = stack.enter_context(Node(self._directory / "node", self.configuration(), workers=WORKERS, cpus=self._cpus))
            seen = drive(LOADS["c1000"], self.port, CAPACITY_S, self._cpus)
            self.rate_per_s = SHARE_OF_CAPACITY * seen["requests"] / (seen["duration_us"] / 1e6)
            self.load = stack.enter_context(
                Paced(self._directory / "through", self.port, CONNECTIONS, self.rate_per_s, self._services, self._cpus)
            )
            self.direct = stack.enter_context(
                Paced(self._directory / "direct", self.origin.port, DIRECT_CONNECTIONS, DIRECT_SHARE * self.rate_per_s, 0, self._cpus)
            )
            self._stack = stack.pop_all()
        time.sleep(WARM_UP_S)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def configuration(self) -> Configuration:
        """The next one."""
        self._marks += 1
        return self._configuration(self.port, self.origin.port, str(self._marks))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens within is one phase."""
        since_s, busy, own = time.monotonic(), machine_seconds(), self._own_seconds()
        yield
        until_s = time.monotonic()
        elsewhere = (machine_seconds() - busy) - (self._own_seconds() - own)
        self._spans.append(Span(name, since_s, until_s, elsewhere / (until_s - since_s)))

    def end_load(self) -> list[Phase]:
        """Stop both loads; the phases. The node goes on until the end of the block."""
        self.load.stop()
        self.direct.stop()
        through, direct = self.load.records(), self.direct.records()
        return [
            Phase(
                span.name, span.until_s - span.since_s, figures(through, span.since_s, span.until_s),
                figures(direct, span.since_s, span.until_s), span.elsewhere,
            )
            for span in self._spans
        ]  # fmt: skip

    def _own_seconds(self) -> float:
        """Of this process and what descends from it, and of the node, which an upgrade makes an orphan."""
        own = cpu_seconds(os.getpid())
        return own + cpu_seconds(self.node.pid) if self.node.heir else own


def machine_seconds() -> float:
    """Seconds that the processors were not idle since the boot: /proc/stat without idle and iowait (proc(5))."""
    with open("/proc/stat") as file:
        ticks = [int(field) for field in file.readline().split()[1:]]
    return (sum(ticks[:8]) - ticks[3] - ticks[4]) / TICKS_PER_S
