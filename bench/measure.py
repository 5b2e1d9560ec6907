"""What a load cost: CPU time of a proxy's whole process tree, its memory, and what the load generator saw."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

from bench.loads import Load
from tests.peers.process import peer_environment, program
from tests.support.processes import pss_bytes, tree_of

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LUA = Path(__file__).with_name("load.lua")
WRK_SLACK_S = 20


@dataclasses.dataclass(frozen=True)
class Sample:
    """One timed run of one load through one proxy."""

    cpu_us_per_request: float
    rate_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    requests: int
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


def sample(load: Load, pid: int, port: int, seconds: float, cpus: set[int]) -> Sample:
    """Drive a load through the proxy with that pid and count what it cost."""
    before = cpu_seconds(pid)
    seen = drive(load, port, seconds, cpus)
    spent = cpu_seconds(pid) - before
    requests = max(1, int(seen["requests"]))
    duration_s = seen["duration_us"] / 1e6
    return Sample(
        cpu_us_per_request=spent * 1e6 / requests,
        rate_per_s=requests / duration_s,
        p50_ms=seen["p50_us"] / 1e3,
        p99_ms=seen["p99_us"] / 1e3,
        failed=int(seen["failed"]),
        requests=requests,
        pss_bytes=pss_bytes(tree_of(pid)),
        busy=spent / duration_s,
    )
