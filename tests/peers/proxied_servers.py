"""Servers whose every connection begins with a PROXY header; they answer with whom that names. One port in plaintext, one with TLS."""

from __future__ import annotations

import os
from pathlib import Path

from tests.peers.process import Peer, free_ports, program


class ProxiedServer(Peer):
    """`certificate` is a file with the chain, `key` one with its key."""

    def __init__(self, directory: Path, certificate: Path, key: Path) -> None:
        super().__init__(directory)
        self.port, self.tls_port = free_ports(2)
        self.write(certificate, key)

    def write(self, certificate: Path, key: Path) -> None:
        """The configuration."""

    def ports(self) -> list[int]:
        return [self.port, self.tls_port]


class ProxiedNginx(ProxiedServer):
    name = "nginx-proxied"

    def write(self, certificate: Path, key: Path) -> None:
        temp = "".join(f"{kind}_temp_path {kind}_temp; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.directory / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""} daemon off; pid nginx.pid; events {{ worker_connections 512; }}
http {{ {temp} access_log off; ssl_certificate {certificate}; ssl_certificate_key {key};
  server {{ listen 127.0.0.1:{self.port} proxy_protocol; listen 127.0.0.1:{self.tls_port} ssl http2 proxy_protocol;
    location / {{ return 200 "$proxy_protocol_addr:$proxy_protocol_port $server_protocol $connection"; }} }} }}
""")

    def command(self) -> list[str]:
        return [program("nginx", "nginx-light"), "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]


class ProxiedHaproxy(ProxiedServer):
    name = "haproxy-proxied"

    def write(self, certificate: Path, key: Path) -> None:
        (self.directory / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
        (self.directory / "haproxy.cfg").write_text(f"""
global
  no strict-limits
defaults
  mode http
  timeout client 1h
  timeout server 1h
  timeout connect 5s
frontend proxied
  bind 127.0.0.1:{self.port} accept-proxy
  bind 127.0.0.1:{self.tls_port} accept-proxy ssl crt both.pem alpn h2,http/1.1
  http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port] HTTP/%[req.ver] 0"
""")

    def command(self) -> list[str]:
        return [program("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"]
