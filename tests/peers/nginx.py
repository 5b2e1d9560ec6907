"""nginx as a proxy and as a server of files."""

from __future__ import annotations

from pathlib import Path

from tests.peers.process import Peer, free_ports, program
from tests.peers.scene import Scene


class Nginx(Peer):
    """A reverse proxy with `scene.workers` workers. Buffers are defaults; the pool of upstream connections must be asked for."""

    name = "nginx"

    def __init__(self, directory: Path, scene: Scene, cpus: set[int] | None = None) -> None:
        super().__init__(directory, cpus)
        self.scene = scene
        self.port = free_ports(1)[0]
        (directory / "nginx.conf").write_text(self.configuration())

    def command(self) -> list[str]:
        return [program("nginx", "nginx-light"), "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]

    def ports(self) -> list[int]:
        return [self.port]

    def configuration(self) -> str:
        temp = "\n".join(f"  {kind}_temp_path {kind}_temp;" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return f"""
daemon off; pid nginx.pid; worker_processes {self.scene.workers}; worker_rlimit_nofile 20000;
events {{ worker_connections 15000; }}
http {{
{temp}
{self._log()}
  keepalive_requests 1000000000; keepalive_timeout 3600s;
{self._upstreams()}
  server {{
    listen 127.0.0.1:{self.port} backlog=4096{" reuseport" if self.scene.workers > 1 else ""};
{self._locations()}
  }}
}}
"""

    def _log(self) -> str:
        if self.scene.access_log is None:
            return "  access_log off;"
        # Buffered, as Envoy's and meshproxy's are: 64 KiB or a second.
        line = (
            '[$time_iso8601] "$request" $status $request_length $body_bytes_sent $request_time $upstream_response_time '
            '"$http_x_forwarded_for" "$http_user_agent" "$request_id" "$host" "$upstream_addr"'
        )
        return f"  log_format mesh '{line}';\n  access_log {self.scene.access_log} mesh buffer=64k flush=1s;"

    def _upstreams(self) -> str:
        return "\n".join(
            f"  upstream {cluster} {{ server 127.0.0.1:{self.scene.origin_port}; keepalive {self.scene.upstream_idle_connections};"
            " keepalive_requests 1000000000; }"
            for cluster in self.scene.clusters
        )

    def _locations(self) -> str:
        forwarded = ""
        if self.scene.forwarded_headers:
            forwarded = "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Request-Id $request_id; "
        return "\n".join(
            f"    location {prefix} {{ proxy_pass http://{self.scene.cluster_of(index)}; proxy_http_version 1.1;"
            f' proxy_set_header Connection ""; proxy_set_header Host $http_host; {forwarded}'
            + (f"proxy_set_header X-Route route-{index};" if self.scene.routes > 1 else "")
            + " }"
            for index, prefix in enumerate(self.scene.prefixes)
        )
