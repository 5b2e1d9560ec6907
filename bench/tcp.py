"""TCP relays beside each other: `python -m bench.tcp`. CPU of the proxy's process tree for each GB, exchange and new connection.

One origin stands behind every proxy; each is loaded in turn, round after round, as in the HTTP benchmark (`bench.rounds`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.measure import cpu_seconds
from bench.report import table
from bench.stage import Processors
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerFailedError, PeerMissingError, free_ports, peer_environment, program
from tests.support.processes import Node

SOURCE = Path(__file__).with_suffix(".c")
SLACK_S = 20


@dataclasses.dataclass(frozen=True)
class Load:
    """`per` is what the cost is counted for: so many of `unit`."""

    name: str
    about: str
    what: str
    connections: int
    unit: str
    per: float
    heading: str


LOADS = {
    load.name: load
    for load in (
        Load("tcp", "8 connections receive as fast as they can", "bulk", 8, "bytes", 1e9, "CPU ms/GB"),
        Load("tcp-echo", "64 connections send 64 bytes and get them back", "echo", 64, "exchanges", 1e3, "CPU us/echo"),
        Load("tcp-connect", "64 at a time: connect, 64 bytes there and back, close", "connect", 64, "exchanges", 1e3, "CPU us/connection"),
    )
}


class Origin(Peer):
    """The C program's serving side, compiled into its directory; `driver` is the same program for the client's side."""

    name = "origin"

    def __init__(self, directory: Path, cpus: set[int]) -> None:
        super().__init__(directory, cpus)
        (self.port,) = free_ports(1)
        self.driver = directory / "tcp"
        subprocess.run([program("gcc", "gcc"), "-O2", "-o", str(self.driver), str(SOURCE)], check=True)

    def command(self) -> list[str]:
        return [str(self.driver), "serve", str(self.port)]

    def ports(self) -> list[int]:
        return [self.port]


class Haproxy(Peer):
    """One thread, with splice where HAProxy finds that it pays."""

    name = "haproxy"

    def __init__(self, directory: Path, origin: int, cpus: set[int]) -> None:
        super().__init__(directory, cpus)
        (self.port,) = free_ports(1)
        (directory / "haproxy.cfg").write_text(f"""
global
  nbthread 1
  maxconn 10100
  no strict-limits

defaults
  mode tcp
  option splice-auto
  timeout connect 5s
  timeout client 1h
  timeout server 1h

listen relay
  bind 127.0.0.1:{self.port} backlog 4096
  server origin 127.0.0.1:{origin}
""")

    def command(self) -> list[str]:
        return [program("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"]

    def ports(self) -> list[int]:
        return [self.port]


class Nginx(Peer):
    """One worker of nginx' stream module."""

    name = "nginx"

    def __init__(self, directory: Path, origin: int, cpus: set[int]) -> None:
        super().__init__(directory, cpus)
        (self.port,) = free_ports(1)
        (directory / "nginx.conf").write_text(f"""
load_module {self.module()};
daemon off; pid nginx.pid; worker_processes 1; worker_rlimit_nofile 20000;
events {{ worker_connections 15000; }}
stream {{
  access_log off;
  server {{ listen 127.0.0.1:{self.port} backlog=4096; proxy_pass 127.0.0.1:{origin}; proxy_timeout 1h; }}
}}
""")

    @staticmethod
    def module() -> Path:
        found = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
        if not found.exists():
            raise PeerMissingError("nginx' stream module is not installed: apt-get install libnginx-mod-stream")
        return found

    def command(self) -> list[str]:
        return [program("nginx", "nginx-light"), "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]

    def ports(self) -> list[int]:
        return [self.port]


def _envoy(directory: Path, origin: int, cpus: set[int]) -> Peer:
    ports = free_ports(2)
    limits = {"thresholds": [{"max_connections": 20000}]}
    config = bootstrap.bootstrap(
        [bootstrap.tcp_listener("relay", ports[0], "origin")], [bootstrap.cluster("origin", origin, circuit_breakers=limits)], ports[1],
    )
    return Envoy(directory, config, ports, cpus=cpus)


def _node(directory: Path, origin: int, cpus: set[int]) -> Peer:
    (port,) = free_ports(1)
    cluster = {"endpoints": [f"127.0.0.1:{origin}"], "breakers": {"max_connections": 20000}}
    config = {"listeners": [{"name": "relay", "address": f"127.0.0.1:{port}", "tcp": "origin"}], "clusters": {"origin": cluster}}
    node = Node(directory, config, cpus=cpus)
    node.port = port
    return node


MAKERS = {"meshproxy": _node, "haproxy": Haproxy, "nginx": Nginx, "envoy": _envoy}


@contextlib.contextmanager
def stage(directory: Path, names: list[str]) -> Iterator[tuple[Path, dict[str, Peer]]]:
    """The driver's path and all proxies of `names`, started before one origin."""
    processors = Processors()
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(directory / "origin", processors.driver))
        peers = {name: stack.enter_context(MAKERS[name](directory / name, origin.port, processors.proxy)) for name in names}
        yield origin.driver, peers


@dataclasses.dataclass(frozen=True)
class Sample:
    """`cost` is CPU milliseconds for each `per` of the load's unit; `rate` is units a second."""

    cost: float
    rate: float
    busy: float
    failed: int


def sample(load: Load, driver: Path, peer: Peer, seconds: float) -> Sample:
    before = cpu_seconds(peer.pid)
    cpus = ",".join(map(str, sorted(Processors().driver)))
    done = subprocess.run(
        ["taskset", "-c", cpus, str(driver), load.what, str(peer.port), str(load.connections), str(seconds)],
        capture_output=True, text=True, timeout=seconds + SLACK_S, env=peer_environment(), check=True,
    )  # fmt: skip
    spent = cpu_seconds(peer.pid) - before
    seen = json.loads(done.stdout)
    duration_s = seen["duration_us"] / 1e6
    units = max(1, seen[load.unit])
    return Sample(spent * 1e3 * load.per / units, units / duration_s, spent / duration_s, seen["failed"])


def run(directory: Path, loads: list[str], names: list[str], seconds: float, rounds: int) -> dict[str, dict[str, list[Sample]]]:
    """Samples of each load and peer."""
    with stage(directory, names) as (driver, peers):
        measured: dict[str, dict[str, list[Sample]]] = {}
        for load in (LOADS[name] for name in loads):
            for peer in peers.values():
                sample(load, driver, peer, 0.5)
            samples = measured[load.name] = {name: [] for name in peers}
            for _ in range(rounds):
                for name, peer in peers.items():
                    samples[name].append(sample(load, driver, peer, seconds))
        return measured


def load_table(name: str, samples: dict[str, list[Sample]]) -> str:
    load = LOADS[name]
    costs = {peer: statistics.median(one.cost for one in several) for peer, several in samples.items()}
    lines = []
    for peer, several in samples.items():
        others = [cost for other, cost in costs.items() if other not in (peer, "meshproxy")]
        spread = f"{min(one.cost for one in several):.1f}-{max(one.cost for one in several):.1f}"
        rate = statistics.median(one.rate for one in several)
        busy = statistics.median(one.busy for one in several)
        ratios = [costs[peer] / cost if cost else None for cost in (min(others, default=0), costs.get("haproxy", 0), costs.get("envoy", 0))]
        lines.append([
            peer, f"{costs[peer]:.1f}", spread, f"{rate:,.0f}", f"{busy:.2f}", str(sum(one.failed for one in several)),
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        ])  # fmt: skip
    headings = ["proxy", load.heading, "(min-max)", f"{load.unit}/s", "busy", "failed", "/best peer", "/HAProxy", "/Envoy"]
    return f"{name}: {load.about}\n{table(headings, lines)}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.tcp", description=__doc__)
    parser.add_argument("--loads", default=",".join(LOADS), help="comma-separated (default: all)")
    parser.add_argument("--peers", default=",".join(MAKERS), help="comma-separated (default: all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timed run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each load and peer (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshproxy-bench-") as directory:
        try:
            measured = run(Path(directory), options.loads.split(","), options.peers.split(","), options.seconds, options.rounds)
        except (PeerMissingError, PeerFailedError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    for name, samples in measured.items():
        print(load_table(name, samples), end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
