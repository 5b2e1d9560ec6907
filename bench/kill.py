"""The load that kills workers: whose requests fail, who waits how long, and whether what the dead had counted is given back."""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import NamedTuple

from bench.paced import FAILURES, Fate, Record
from bench.phases import Phase
from bench.steady import Steady
from meshproxy.admin.client import ControlClient
from meshproxy.scoreboard.catalogue import BlockKind
from meshproxy.telemetry.stats import LAYOUT
from tests.processes import meshes

KILLS = 10
KILLS_APART_S = 1.0
END_LIMIT_S = 10
READY_LIMIT_S = 30
LOOK_AGAIN_S = 0.02
CLUSTER = "origin"
ESTABLISHED = "01"


class Death(NamedTuple):
    """From the signal to the end of the process, which is when the last of its sockets is closed. CLOCK_MONOTONIC."""

    killed_s: float
    gone_s: float


def kill_workers(directory: Path, seconds: float) -> tuple[list[Phase], dict[str, float]]:
    """`kill -9` of each of two workers in turn, ten times, each a second after the last one's heir serves."""
    with Steady(directory, lambda port, origin_port, mark: meshes.plain(origin_port, port=port, mark=mark)) as scene:
        control = ControlClient(str(scene.node.control))
        deaths, heir_s = [], []
        with scene.phase("before"):
            time.sleep(seconds)
        with scene.phase("kills"):
            for number in range(KILLS):
                deaths.append(_kill(control, number))
                heir_s.append(time.monotonic() - deaths[-1].killed_s)
                time.sleep(KILLS_APART_S)
        with scene.phase("after"):
            time.sleep(seconds)
        phases = scene.end_load()
        facts = fates(scene.load.records(), deaths) | shares(control) | {"open_cx": open_connections(scene.origin.port)}
    return phases, facts | {"slowest_heir_s": max(heir_s)}


def _kill(control: ControlClient, number: int) -> Death:
    """Returns when the heir serves."""
    ready = [row for row in control.status().workers if row.state == "READY"]
    victim = ready[number % len(ready)]
    watch = os.pidfd_open(victim.pid)
    try:
        killed_s = time.monotonic()
        os.kill(victim.pid, signal.SIGKILL)
        if not select.select([watch], [], [], END_LIMIT_S)[0]:
            raise RuntimeError(f"worker {victim.slot} still runs {END_LIMIT_S} s after SIGKILL")
        gone_s = time.monotonic()
    finally:
        os.close(watch)
    while not any(row.slot == victim.slot and row.pid != victim.pid and row.state == "READY" for row in control.status().workers):
        if time.monotonic() - gone_s > READY_LIMIT_S:
            raise RuntimeError(f"worker {victim.slot} has no heir {READY_LIMIT_S} s after its death")
        time.sleep(LOOK_AGAIN_S)
    return Death(killed_s, gone_s)


def fates(records: list[Record], deaths: list[Death]) -> dict[str, float]:
    """How many failures a death explains: requests that were under way when it came. Nothing else may fail."""
    failed = [record for record in records if record.fate in FAILURES]
    explained = sum(any(_was_under_way(record, death) for death in deaths) for record in failed)
    under_way = max(sum(_is_request(record) and _was_under_way(record, death) for record in records) for death in deaths)
    return {"failed_in_flight": explained, "failed_otherwise": len(failed) - explained, "most_in_flight": under_way}


def _is_request(record: Record) -> bool:
    return record.fate in (Fate.ANSWERED, Fate.OTHER_STATUS, Fate.CUT, Fate.UNANSWERED)


def _was_under_way(record: Record, death: Death) -> bool:
    """Begun before the last socket closed, ended after the signal."""
    ended_us = record.started_us + record.took_us
    return _is_request(record) and record.started_us <= death.gone_s * 1e6 and ended_us >= death.killed_s * 1e6


def shares(control: ControlClient) -> dict[str, float]:
    """What circuit breakers count as held, over all workers."""
    region, directory = control.scoreboard()
    first = next(cell for kind, thing, cell in directory.rows if (kind, thing) == (BlockKind.CLUSTER.name, CLUSTER))
    held = {slot.name: slot.at for slot in LAYOUT[BlockKind.CLUSTER] if slot.name.startswith("circuit_breakers.default.")}
    cells = region.read_cells(first, max(held.values()) + 1)
    return {name.rpartition(".")[2]: cells[at] for name, at in held.items()}


def open_connections(port: int) -> int:
    """To a local port, as the kernel counts them (proc(5), /proc/net/tcp)."""
    with open("/proc/net/tcp") as file:
        rows = [line.split() for line in file][1:]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == ESTABLISHED for row in rows)
