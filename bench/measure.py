"""What a load cost: CPU time of a proxy's whole process tree, its memory, and what the load generator saw."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.loads import Load
from tests.peers.process import Peer, peer_environment, program
from tests.support.processes import pss_bytes, tree_of

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LUA = Path(__file__).with_name("load.lua")
WRK_SLACK_S = 20


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a load generator saw: so many of the load's unit. Not every generator tells latencies."""

    count: float
    duration_s: float
    failed: int
    p50_ms: float | None = None
    p99_ms: float | None = None


@dataclasses.dataclass(frozen=True)
class Sample:
    """One timed run of one load through one proxy. The cost and the rate are in the load's unit."""

    cpu_us: float
    rate_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int
    pss_bytes: int
    busy: float
    """CPU seconds of the tree for each second of the run: near the number of workers, the proxy was the bottleneck."""


def cpu_seconds(pid: int) -> float:
    """utime + stime of a process tree, reaped children included (fields 14 to 17 of proc(5) stat)."""
    ticks = 0
    for member in tree_of(pid):
        try:
            fields = Path(f"/proc/{member}/stat").read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS_PER_S


def drive(load: Load, port: int, seconds: float, cpus: set[int], scheme: str = "http") -> dict[str, float]:
    """Run wrk, pinned; what it saw, as load.lua prints it."""
    headers = [part for header in load.headers for part in ("-H", header)]
    services = str(load.routes if load.routes > 1 else 0)
    command = [
        program("wrk", "wrk"), "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s", "-s", str(LUA), *headers,
        f"{scheme}://127.0.0.1:{port}{load.path}", "--", services,
    ]  # fmt: skip
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, sorted(cpus))), *command],
        capture_output=True, text=True, timeout=seconds + WRK_SLACK_S, env=peer_environment(),
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"wrk ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return json.loads(lines[-1])


def wrk(load: Load, port: int, seconds: float, cpus: set[int], scheme: str = "http") -> Seen:
    """`drive` in the words of a sample."""
    seen = drive(load, port, seconds, cpus, scheme)
    return Seen(int(seen["requests"]), seen["duration_us"] / 1e6, int(seen["failed"]), seen["p50_us"] / 1e3, seen["p99_us"] / 1e3)


def sample(peer: Peer, run: Callable[[], Seen]) -> Sample:
    """Let `run()` drive a load through the proxy and count what it cost."""
    before = cpu_seconds(peer.pid)
    seen = run()
    spent = cpu_seconds(peer.pid) - before
    return Sample(
        cpu_us=spent * 1e6 / max(1, seen.count),
        rate_per_s=seen.count / seen.duration_s,
        p50_ms=seen.p50_ms,
        p99_ms=seen.p99_ms,
        failed=seen.failed,
        pss_bytes=pss_bytes(tree_of(peer.pid)),
        busy=spent / seen.duration_s,
    )
