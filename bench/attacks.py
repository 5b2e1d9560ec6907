"""What others suffer from an attack: a paced client's tail before and meanwhile, the node's memory, and the counter that names it.

The attacker runs where client and origin do, with a bounded share of that processor; the second load, past the node, tells what that
alone did to everybody.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bench.paced import Figures, Paced, figures
from bench.stage import Processors
from tests.peers.origin import Origin
from tests.peers.process import free_ports, peer_environment
from tests.support.certificates import Authority
from tests.support.processes import ROOT, Node, pss_bytes, tree_of

CONNECTIONS, RATE_PER_S = 50, 500
DIRECT_CONNECTIONS, DIRECT_RATE_PER_S = 10, 100
SHARE = 0.3
END_LIMIT_S = 20
ESTABLISH_S = 2.0
"""An attack's beginning is not measured: the 800 bodies that slow readers ask for at once keep the origins' processor busy for a second."""
ATTACKS = ["rapid-reset", "continuation", "settings", "ping", "slow-read", "slowloris", "half-open", "renegotiation"]
TELLING = re.compile(r"flood|reset|overflow|timeout|error|rejected|renegotiat|fail|too_many")


@dataclasses.dataclass(frozen=True)
class Attacked:
    """One attack in one round. Latencies of the client through the node, ratios to what they were before."""

    attack: str
    attacker_cpu: float
    p99_before_ms: float
    p99_ms: float
    p99_ratio: float
    direct_ratio: float
    failed: int
    pss_growth_bytes: int
    counters: dict[str, int]


def run(directory: Path, seconds: float, tell: Callable[[str], None]) -> list[Attacked]:
    """Each attack on a node of its own."""
    measured = []
    for name in ATTACKS:
        measured.append(_attacked(directory / name, name, seconds))
        tell(f"attacks {name}: p99 {measured[-1].p99_before_ms:.2f} -> {measured[-1].p99_ms:.2f} ms")
    return measured


def _attacked(directory: Path, name: str, seconds: float) -> Attacked:
    cpus = Processors()
    port, tls_port, admin_port = free_ports(3)
    directory.mkdir(parents=True)
    chain, key = Authority().issue("mesh.test").write(directory, "server")
    with Origin(directory / "origin", cpus.driver) as origin, Origin(directory / "attacked", cpus.driver) as attacked:
        config = configuration(port, tls_port, admin_port, origin.port, attacked.port, chain, key)
        through = Paced(directory / "through", port, CONNECTIONS, RATE_PER_S, cpus=cpus.driver)
        direct = Paced(directory / "direct", origin.port, DIRECT_CONNECTIONS, DIRECT_RATE_PER_S, cpus=cpus.driver)
        with Node(directory / "node", config, cpus=cpus.proxy) as node:
            with through, direct:
                time.sleep(1)
                before = (time.monotonic(), _counters(admin_port), pss_bytes(tree_of(node.pid)))
                time.sleep(seconds)
                attacker = subprocess.Popen(
                    [sys.executable, "-m", "bench.attackers", name, str(port), str(tls_port), str(SHARE)],
                    cwd=ROOT, stdout=subprocess.PIPE, env=peer_environment(),
                )  # fmt: skip
                os.sched_setaffinity(attacker.pid, cpus.driver)
                try:
                    time.sleep(ESTABLISH_S)
                    began = time.monotonic()
                    time.sleep(seconds)
                    ended = time.monotonic()
                    pss = pss_bytes(tree_of(node.pid))
                finally:
                    attacker.terminate()
                    printed, _ = attacker.communicate(timeout=END_LIMIT_S)
            grown = _grown(before[1], _counters(admin_port))
        spans = (before[0], before[0] + seconds), (began, ended)
        calm, meanwhile = (figures(through.records(), *span) for span in spans)
        direct_calm, direct_meanwhile = (figures(direct.records(), *span) for span in spans)
    return Attacked(
        name, json.loads(printed)["cpu_share"], calm.p99_ms, meanwhile.p99_ms, _ratio(calm, meanwhile),
        _ratio(direct_calm, direct_meanwhile), meanwhile.failed, pss - before[2], grown,
    )  # fmt: skip


def configuration(port: int, tls_port: int, admin_port: int, origin_port: int, attacked_port: int, chain: Path, key: Path) -> dict:
    """HTTP/1 and HTTP/2 on one port, TLS on the other, nothing set that has a default but the time for a head: it is off by default.

    Large bodies, which slow readers ask for, come from an origin of their own: what it costs an origin to make them is not the node's.
    """
    routes = [{"prefix": "/1m", "to": "attacked"}, {"prefix": "/", "to": "origin"}]
    return {
        "admin": f"127.0.0.1:{admin_port}",
        "listeners": [
            {"name": "plain", "address": f"127.0.0.1:{port}", "routes": routes, "http": {"request_headers_timeout": "1s"}},
            {"name": "tls", "address": f"127.0.0.1:{tls_port}", "tls": {"cert": str(chain), "key": str(key)}, "to": "origin"},
        ],
        "clusters": {"origin": [f"127.0.0.1:{origin_port}"], "attacked": [f"127.0.0.1:{attacked_port}"]},
    }


def _ratio(calm: Figures, meanwhile: Figures) -> float:
    return meanwhile.p99_ms / calm.p99_ms if calm.p99_ms else 0.0


def _counters(admin_port: int) -> dict[str, int]:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/stats?format=json", timeout=20) as page:
        rows = json.load(page)["stats"]
    return {row["name"]: row["value"] for row in rows if TELLING.search(row.get("name", ""))}


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: value - before.get(name, 0) for name, value in after.items() if value > before.get(name, 0)}
