"""Unary gRPC, HTTP/2 in plaintext on both sides, driven by h2load. Between meshproxy and Envoy alone."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.loads import GrpcLoad
from bench.measure import WRK_SLACK_S, Seen
from bench.stage import Processors
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.http2_servers import NginxHttp2
from tests.peers.process import Peer, free_ports, peer_environment, program
from tests.support.processes import Node

MESSAGE = b"\0\0\0\0\x10" + b"m" * 16
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class GrpcOrigin(NginxHttp2):
    """nginx, which answers every call with eleven bytes and the status in the trailers."""

    def write(self) -> None:
        temporary = "".join(f"{kind}_temp_path {kind}_temp; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.directory / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""} daemon off; pid nginx.pid; events {{ worker_connections 512; }}
http {{ {temporary} access_log off; keepalive_requests 100000000;
  server {{ listen 127.0.0.1:{self.port} http2; default_type application/grpc; add_trailer grpc-status 0;
    location / {{ return 200 eleven-byte; }} }} }}
""")


def _configuration(origin_port: int, port: int) -> dict[str, Any]:
    spoken = {"@type": f"type.googleapis.com/{OPTIONS}", "explicit_http_config": {"http2_protocol_options": {}}}
    cluster = bootstrap.cluster("origin", origin_port, typed_extension_protocol_options={OPTIONS: spoken})
    listener = bootstrap.http_listener("ingress", port, [bootstrap.virtual_host([bootstrap.route("/", "origin")])])
    return bootstrap.bootstrap([listener], [cluster])


def _envoy(directory: Path, origin_port: int, cpus: set[int]) -> Peer:
    (port,) = free_ports(1)
    return Envoy(directory, _configuration(origin_port, port), [port], cpus=cpus)


def _node(directory: Path, origin_port: int, cpus: set[int]) -> Peer:
    (port,) = free_ports(1)
    node = Node(directory, _configuration(origin_port, port), cpus=cpus)
    node.port = port
    return node


MAKERS = {"meshproxy": _node, "envoy": _envoy}


@contextlib.contextmanager
def stage(directory: Path, load: GrpcLoad, names: list[str]) -> Iterator[dict[str, Peer]]:
    """Those of `names` that can, started before one origin."""
    processors = Processors(load)
    (directory / "origin").mkdir(parents=True)
    (directory / "message").write_bytes(MESSAGE)
    with contextlib.ExitStack() as stack:
        origin = GrpcOrigin(directory / "origin")
        origin.cpus = processors.driver
        stack.enter_context(origin)
        yield {
            name: stack.enter_context(make(directory / name, origin.port, processors.proxy))
            for name, make in MAKERS.items() if name in names
        }  # fmt: skip


def drive(load: GrpcLoad, peer: Peer, seconds: float, cpus: set[int]) -> Seen:
    """Calls that succeeded. h2load tells no percentiles."""
    duration_s = max(1, round(seconds))
    done = subprocess.run(
        [
            "taskset", "-c", ",".join(map(str, sorted(cpus))), program("h2load", "nghttp2-client"), "-D", str(duration_s),
            "-c", str(load.connections), "-m", str(load.streams), "-d", str(peer.directory.parent / "message"),
            "-H", "content-type: application/grpc", "-H", "te: trailers", f"http://127.0.0.1:{peer.port}/test.Echo/Unary",
        ],
        capture_output=True, text=True, timeout=duration_s + WRK_SLACK_S, env=peer_environment(),
    )  # fmt: skip
    found = re.search(r"requests: .* (\d+) succeeded, (\d+) failed", done.stdout)
    if found is None or not int(found[1]):
        raise RuntimeError(f"h2load ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-300:]}")
    return Seen(int(found[1]), duration_s, int(found[2]))
