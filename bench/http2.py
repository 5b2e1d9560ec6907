"""HTTP/2 over TLS beside nginx, HAProxy and Envoy, to a HTTP/1 origin: `python -m bench.http2`. CPU of the proxy's process tree a request."""

from __future__ import annotations

import argparse
import dataclasses
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import tls
from bench.measure import WRK_SLACK_S, cpu_seconds
from bench.stage import Processors
from bench.tls import Sample, TlsHaproxy, TlsLoad, TlsNginx, load_table
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerFailedError, PeerMissingError, free_ports, peer_environment, program
from tests.peers.scene import Scene
from tests.support.processes import Node


@dataclasses.dataclass(frozen=True)
class Http2Load(TlsLoad):
    """`streams` at a time on each connection."""

    streams: int = 10


LOADS = {
    load.name: load
    for load in (
        Http2Load("h2", "2-byte answers, 16 connections with 10 streams each", connections=16),
        Http2Load("h2-64k", "64 KiB answers, 16 connections with 4 streams each", path="/64k", body_bytes=64 << 10, connections=16, streams=4),
    )
}


class Http2Nginx(TlsNginx):
    def configuration(self) -> str:
        # Its default ends a connection after 1,000 requests, which no other does.
        return super().configuration().replace(" ssl; ", " ssl http2; keepalive_requests 100000000; ")


class Http2Haproxy(TlsHaproxy):
    def configuration(self) -> str:
        return super().configuration().replace(" ssl-min-ver ", " alpn h2,http/1.1 ssl-min-ver ")


def _bootstrap(directory: Path, scene: Scene, load: Http2Load, ports: list[int]) -> dict[str, Any]:
    config = tls._tls_bootstrap(directory.parent, scene, load, *ports)
    chain = config["static_resources"]["listeners"][0]["filter_chains"][0]
    chain["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] = ["h2", "http/1.1"]
    return config


def _envoy(directory: Path, scene: Scene, load: Http2Load, cpus: set[int]) -> Peer:
    ports = free_ports(2)
    return Envoy(directory, _bootstrap(directory, scene, load, ports), ports, cpus=cpus)


def _node(directory: Path, scene: Scene, load: Http2Load, cpus: set[int]) -> Peer:
    ports = free_ports(2)
    node = Node(directory, _bootstrap(directory, scene, load, ports), cpus=cpus)
    node.port = ports[0]
    return node


MAKERS = {
    "meshproxy": _node,
    "nginx": lambda directory, scene, load, cpus: type("Nginx", (Http2Nginx,), {"load": load})(directory, scene, cpus),
    "haproxy": lambda directory, scene, load, cpus: type("Haproxy", (Http2Haproxy,), {"load": load})(directory, scene, cpus),
    "envoy": _envoy,
}


def sample(load: Http2Load, peer: Peer, seconds: float) -> Sample:
    cpus = ",".join(map(str, sorted(Processors().driver)))
    command = [
        "taskset", "-c", cpus, program("h2load", "nghttp2-client"), "-D", str(max(1, round(seconds))), "-c", str(load.connections),
        "-m", str(load.streams), f"https://127.0.0.1:{peer.port}{load.path}",
    ]  # fmt: skip
    before = cpu_seconds(peer.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + WRK_SLACK_S, env=peer_environment())
    spent = cpu_seconds(peer.pid) - before
    found = re.search(r"requests: (\d+) total, .* (\d+) done, (\d+) succeeded, (\d+) failed", done.stdout)
    if found is None or "Application protocol: h2" not in done.stdout:
        raise RuntimeError(f"h2load at {peer.name} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-300:]}")
    count = max(1, int(found[3]))
    return Sample(spent * 1e6 / count, count / seconds, spent / seconds, int(found[4]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.http2", description=__doc__)
    parser.add_argument("--loads", default=",".join(LOADS), help="comma-separated (default: all)")
    parser.add_argument("--peers", default=",".join(MAKERS), help="comma-separated (default: all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timed run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each load and peer (default: %(default)s)")
    options = parser.parse_args()
    tls.MAKERS, tls.sample = MAKERS, sample
    with tempfile.TemporaryDirectory(prefix="meshproxy-bench-") as directory:
        try:
            for load in (LOADS[name] for name in options.loads.split(",")):
                samples = tls.run(Path(directory) / load.name, load, options.peers.split(","), options.seconds, options.rounds)
                print(load_table(load, samples), end="\n\n", flush=True)
        except (PeerMissingError, PeerFailedError, RuntimeError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
