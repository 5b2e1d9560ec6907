"""HAProxy as a proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.peers.process import Peer, free_ports, program
from tests.peers.scene import Scene

MAX_CONNECTIONS = 10_100


class Haproxy(Peer):
    """One process with `scene.workers` threads. `http-reuse always` is the sharing of upstream connections that the others do anyway."""

    name = "haproxy"

    def __init__(self, directory: Path, scene: Scene, cpus: set[int] | None = None) -> None:
        super().__init__(directory, cpus)
        self.scene = scene
        self.port = free_ports(1)[0]
        (directory / "haproxy.cfg").write_text(self.configuration())
        (directory / "clusters.map").write_text(self._map(scene.cluster_of))
        (directory / "names.map").write_text(self._map("route-{}".format))

    def command(self) -> list[str]:
        # The log goes to its standard output, which is the access log's file when there is one.
        return [program("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"]

    @property
    def output_file(self) -> Path:
        return self.scene.access_log or super().output_file

    def ports(self) -> list[int]:
        return [self.port]

    def configuration(self) -> str:
        log = "  log stdout format raw local0\n" if self.scene.access_log else ""
        defaults = "  log global\n  option httplog\n" if self.scene.access_log else ""
        return f"""
global
  nbthread {self.scene.workers}
  maxconn {MAX_CONNECTIONS}
  no strict-limits
{log}
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout http-keep-alive 1h
{defaults}
frontend ingress
  bind 127.0.0.1:{self.port} backlog 4096
{self._routes()}
{self._backends()}
"""

    def _routes(self) -> str:
        lines = []
        if self.scene.forwarded_headers:
            lines += ["  option forwardfor", "  unique-id-format %{+X}o%ci:%cp_%Ts_%rt:%pid", "  unique-id-header X-Request-Id"]
        if self.scene.routes == 1:
            return "\n".join([*lines, "  default_backend origin"])
        # Maps are how HAProxy wants many prefixes: a tree instead of a hundred conditions.
        lines += ["  http-request set-header X-Route %[path,map_beg(names.map)]", "  use_backend %[path,map_beg(clusters.map)]"]
        return "\n".join(lines)

    def _map(self, value: Callable[[int], str]) -> str:
        return "".join(f"{prefix} {value(index)}\n" for index, prefix in enumerate(self.scene.prefixes))

    def _backends(self) -> str:
        return "\n".join(
            f"backend {cluster}\n  http-reuse always\n  server origin 127.0.0.1:{self.scene.origin_port}" for cluster in self.scene.clusters
        )
