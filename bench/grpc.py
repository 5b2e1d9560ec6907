"""Unary gRPC beside Envoy, HTTP/2 in plaintext on both sides: `python -m bench.grpc`. CPU of the proxy's process tree a call."""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import WRK_SLACK_S, cpu_seconds
from bench.report import table
from bench.stage import Processors
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.http2_servers import NginxHttp2
from tests.peers.process import Peer, PeerFailedError, PeerMissingError, free_ports, peer_environment, program
from tests.support.processes import Node

CONNECTIONS, STREAMS = 8, 10
MESSAGE = b"\0\0\0\0\x10" + b"m" * 16
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class GrpcOrigin(NginxHttp2):
    """nginx, which answers every call with eleven bytes and the status in the trailers."""

    def write(self) -> None:
        (self.directory / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""} daemon off; pid nginx.pid; events {{ worker_connections 512; }}
http {{ {"".join(f"{kind}_temp_path {kind}_temp; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))} access_log off;
  keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{self.port} http2; default_type application/grpc; add_trailer grpc-status 0;
    location / {{ return 200 eleven-byte; }} }} }}
""")


def configuration(origin_port: int, port: int) -> dict[str, Any]:
    spoken = {"@type": f"type.googleapis.com/{OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}
    cluster = bootstrap.cluster("origin", origin_port, typed_extension_protocol_options={OPTIONS: spoken})
    return bootstrap.bootstrap([bootstrap.http_listener("ingress", port, [bootstrap.virtual_host([bootstrap.route("/", "origin")])])], [cluster])


def envoy(directory: Path, origin_port: int, cpus: set[int]) -> Peer:
    (port,) = free_ports(1)
    return Envoy(directory, configuration(origin_port, port), [port], cpus=cpus)


def node(directory: Path, origin_port: int, cpus: set[int]) -> Peer:
    (port,) = free_ports(1)
    made = Node(directory, configuration(origin_port, port), cpus=cpus)
    made.port = port
    return made


MAKERS = {"meshproxy": node, "envoy": envoy}


def sample(peer: Peer, message: Path, seconds: float) -> tuple[float, float]:
    """CPU in us a call, and calls a second."""
    cpus = ",".join(map(str, sorted(Processors().driver)))
    command = [
        "taskset", "-c", cpus, program("h2load", "nghttp2-client"), "-D", str(max(1, round(seconds))), "-c", str(CONNECTIONS), "-m", str(STREAMS),
        "-d", str(message), "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{peer.port}/test.Echo/Unary",
    ]  # fmt: skip
    before = cpu_seconds(peer.pid)
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + WRK_SLACK_S, env=peer_environment())
    spent = cpu_seconds(peer.pid) - before
    found = re.search(r"requests: \d+ total, .* (\d+) succeeded, (\d+) failed", done.stdout)
    if found is None or not int(found[1]) or int(found[2]):
        raise RuntimeError(f"h2load at {peer.name} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-300:]}")
    return spent * 1e6 / int(found[1]), int(found[1]) / seconds


def run(directory: Path, seconds: float, rounds: int) -> str:
    """A table; the proxies take turns."""
    place = Processors()
    message = directory / "message"
    message.write_bytes(MESSAGE)
    for name in ("origin", *MAKERS):
        (directory / name).mkdir()
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in MAKERS}
    origin = GrpcOrigin(directory / "origin")
    origin.cpus = place.driver
    with origin:
        peers = {name: make(directory / name, origin.port, place.proxy) for name, make in MAKERS.items()}
        with peers["meshproxy"], peers["envoy"]:
            for peer in peers.values():
                sample(peer, message, 1)
            for _ in range(rounds):
                for name, peer in peers.items():
                    samples[name].append(sample(peer, message, seconds))
    costs = {name: statistics.median(cost for cost, _ in several) for name, several in samples.items()}
    lines = [
        [name, f"{costs[name]:.1f}", f"{min(several)[0]:.1f}-{max(several)[0]:.1f}", f"{statistics.median(rate for _, rate in several):,.0f}",
         f"{costs[name] / costs['envoy']:.2f}"]
        for name, several in samples.items()
    ]  # fmt: skip
    return table(["proxy", "CPU us/call", "(min-max)", "calls/s", "/Envoy"], lines)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.grpc", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timed run (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each proxy (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="meshproxy-bench-") as directory:
        try:
            print(run(Path(directory), options.seconds, options.rounds))
        except (PeerMissingError, PeerFailedError, RuntimeError) as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
