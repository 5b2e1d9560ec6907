"""Proxies of other makes that stand on both sides of a node, with TLS between them and it.

Each has a plaintext port for every protocol that it can speak to the node's TLS port (`front`), and a TLS port with ALPN before the origin
(`behind`), where it tells the origin in `x-hop` by which protocol the node came.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

from tests.peers import bootstrap
from tests.peers.envoy import Envoy
from tests.peers.process import Peer, free_ports, program

TLS = f"{bootstrap.TYPES}.extensions.transport_sockets.tls.v3"
OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
NAME = "mesh.test"


@dataclasses.dataclass(frozen=True)
class Between:
    """What a hop stands between, and `server.pem`, `server.key` and `ca.pem` of `mesh.test` in a folder."""

    node_port: int
    origin_port: int
    certificates: Path


class Hop(Peer):
    speaks: tuple[str, ...] = ("http1",)
    """Protocols to the node."""

    def __init__(self, directory: Path, between: Between) -> None:
        super().__init__(directory)
        self.between = between
        self.behind, *fronts = free_ports(1 + len(self.speaks))
        self.front = dict(zip(self.speaks, fronts, strict=True))
        self.write(between.certificates)

    def write(self, certificates: Path) -> None:
        """The configuration."""
        raise NotImplementedError

    def ports(self) -> list[int]:
        return [self.behind, *self.front.values()]


class NginxHop(Hop):
    name = "nginx-hop"

    def write(self, certificates: Path) -> None:
        temp = "".join(f"{kind}_temp_path {kind}_temp; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (self.directory / "nginx.conf").write_text(f"""
{"user root;" if os.geteuid() == 0 else ""} daemon off; pid nginx.pid; events {{ worker_connections 512; }}
http {{ {temp} access_log off; client_max_body_size 0; proxy_http_version 1.1; proxy_set_header Connection "";
  server {{ listen 127.0.0.1:{self.front["http1"]};
    location / {{ proxy_pass https://127.0.0.1:{self.between.node_port}; proxy_ssl_name {NAME}; proxy_ssl_server_name on;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate {certificates}/ca.pem; proxy_set_header Host {NAME}; }} }}
  server {{ listen 127.0.0.1:{self.behind} ssl http2;
    ssl_certificate {certificates}/server.pem; ssl_certificate_key {certificates}/server.key;
    location / {{ proxy_pass http://127.0.0.1:{self.between.origin_port}; proxy_set_header X-Hop $server_protocol; }} }} }}
""")

    def command(self) -> list[str]:
        return [program("nginx", "nginx-light"), "-p", str(self.directory), "-c", "nginx.conf", "-e", "stderr"]


class HaproxyHop(Hop):
    name = "haproxy-hop"
    speaks = ("http1", "http2")

    def write(self, certificates: Path) -> None:
        both = self.directory / "server.pem"
        both.write_bytes((certificates / "server.pem").read_bytes() + (certificates / "server.key").read_bytes())
        verify = f"ssl verify required ca-file {certificates}/ca.pem sni str({NAME})"
        alpn = {"http1": "http/1.1", "http2": "h2"}
        fronts = "".join(f"""
listen {protocol}
  bind 127.0.0.1:{port}
  server node 127.0.0.1:{self.between.node_port} {verify} alpn {alpn[protocol]}
""" for protocol, port in self.front.items())
        (self.directory / "haproxy.cfg").write_text(f"""
defaults
  mode http
  timeout connect 5s
  timeout client 1m
  timeout server 1m
{fronts}
listen behind
  bind 127.0.0.1:{self.behind} ssl crt {both} alpn h2,http/1.1
  http-request set-header X-Hop HTTP/%[req.ver]
  server origin 127.0.0.1:{self.between.origin_port}
""")

    def command(self) -> list[str]:
        return [program("haproxy", "haproxy"), "-db", "-f", "haproxy.cfg"]


class EnvoyHop(Hop):
    name = "envoy-hop"
    speaks = ("http1", "http2")
    command = Envoy.command

    def write(self, certificates: Path) -> None:
        self.binary = Envoy(self.directory, {}, []).binary
        self.concurrency = 1
        ca = {"trusted_ca": {"filename": f"{certificates}/ca.pem"}}
        pair = {"certificate_chain": {"filename": f"{certificates}/server.pem"}, "private_key": {"filename": f"{certificates}/server.key"}}
        clusters = [bootstrap.cluster("origin", self.between.origin_port)]
        listeners = [bootstrap.http_listener(
            "behind", self.behind, [bootstrap.virtual_host([bootstrap.route("/", "origin")], request_headers_to_add=[
                {"header": {"key": "x-hop", "value": "%PROTOCOL%"}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"},
            ])])]  # fmt: skip
        server = {"tls_certificates": [pair], "alpn_protocols": ["h2", "http/1.1"]}
        listeners[0]["filter_chains"][0]["transport_socket"] = _socket("DownstreamTlsContext", server)
        for protocol, port in self.front.items():
            listeners.append(bootstrap.http_listener(protocol, port, [bootstrap.virtual_host([bootstrap.route("/", protocol)])]))
            explicit = {"http2_protocol_options": {}} if protocol == "http2" else {"http_protocol_options": {}}
            options = {"@type": f"type.googleapis.com/{OPTIONS}", "explicit_http_config": explicit}
            clusters.append(bootstrap.cluster(
                protocol, self.between.node_port, typed_extension_protocol_options={OPTIONS: options},
                transport_socket=_socket("UpstreamTlsContext", {"validation_context": ca}, sni=NAME),
            ))  # fmt: skip
        (self.directory / "envoy.json").write_text(json.dumps(bootstrap.bootstrap(listeners, clusters)))


def _socket(kind: str, common: bootstrap.Json, **settings: str) -> bootstrap.Json:
    return {"name": "tls", "typed_config": {"@type": f"{TLS}.{kind}", "common_tls_context": common, **settings}}
