"""TCP relays beside each other: the CPU of each MB, exchange and new connection. One origin stands behind every proxy."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.loads import TcpLoad
from bench.measure import Seen
from bench.stage import Processors
from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, PeerMissingError, free_ports, peer_environment, program
from tests.support.processes import Node

SOURCE = Path(__file__).with_suffix(".c")
SLACK_S = 20
ORIGIN = "origin"


class Origin(Peer):
    """The C program's serving side, compiled into its directory."""

    name = "origin"

    def __init__(self, directory: Path, cpus: set[int]) -> None:
        super().__init__(directory, cpus)
        (self.port,) = free_ports(1)
        self.program = directory / "tcp"
        subprocess.run([program("gcc", "gcc"), "-O2", "-o", str(self.program), str(SOURCE)], check=True)

    def command(self) -> list[str]:
        return [str(self.program), "serve", str(self.port)]

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
def stage(directory: Path, names: list[str]) -> Iterator[dict[str, Peer]]:
    """All proxies of `names`, each in a folder beside the origin's, whose program is the driver too."""
    processors = Processors()
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(Origin(directory / ORIGIN, processors.driver))
        yield {name: stack.enter_context(MAKERS[name](directory / name, origin.port, processors.proxy)) for name in names}


def drive(load: TcpLoad, peer: Peer, seconds: float, cpus: set[int]) -> Seen:
    """What tcp.c saw, in units of the load."""
    done = subprocess.run(
        [
            "taskset", "-c", ",".join(map(str, sorted(cpus))), str(peer.directory.parent / ORIGIN / "tcp"),
            load.what, str(peer.port), str(load.connections), str(seconds),
        ],
        capture_output=True, text=True, timeout=seconds + SLACK_S, env=peer_environment(), check=True,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    return Seen(seen[load.counted] / load.per, seen["duration_us"] / 1e6, seen["failed"])
