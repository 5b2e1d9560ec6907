"""Consul, a registry: built once by Go into the user's cache, run as a development server on ports of its own."""

from __future__ import annotations

import http.client
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.peers.go_build import built
from tests.peers.process import Peer, PeerFailedError, free_ports
from tests.support.processes import wait_until

VERSION = "1.12.9"
"""The last that builds from its published module alone."""
MODULE = f"""module meshproxy/consul

go 1.18

require github.com/hashicorp/consul v{VERSION}
"""
BUILD_LIMIT_S = 1800
LEADER_LIMIT_S = 30


def program() -> Path:
    """The built server; raises PeerMissingError when it cannot be had."""
    package = "github.com/hashicorp/consul"
    steps = [["build", "-ldflags", "-s -w", "-o", "consul", package]]
    return built("consul", VERSION, package, MODULE, steps, flags="-mod=mod -buildvcs=false", limit_s=BUILD_LIMIT_S)


class Consul(Peer):
    """One server, leader of itself. Its state is kept in `directory` over a kill and a start when `keep`.
    `tls`: CA, certificate and key of an HTTPS port, which asks clients for a certificate. `of`: with so many others it elects a leader, and
    `join` are those that are there already."""

    name = "consul"
    MANAGEMENT = "5ae9cb1b-6b0d-4d3c-9fd3-0d0dc6cf52a7"
    """The token that may everything, with ACLs."""

    def __init__(
        self, directory: Path, *, acl: bool = False, keep: bool = False, tls: tuple[Path, Path, Path] | None = None, of: int = 1,
        join: Sequence[Consul] = (),
    ) -> None:
        super().__init__(directory)
        self.binary = program()
        self.port, self.https_port, *self._others = free_ports(7)
        self.grpc_port = self._others[1]
        self.acl = acl
        self.keep = keep or of > 1
        self.of = of
        self.join = list(join)
        settings: dict[str, Any] = {"disable_update_check": True, "performance": {"raft_multiplier": 1}}
        if acl:
            settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": {"initial_management": self.MANAGEMENT}}
        if tls is not None:
            ca, cert, key = map(str, tls)
            settings["ports"] = {"https": self.https_port}
            settings["tls"] = {"https": {"ca_file": ca, "cert_file": cert, "key_file": key, "verify_incoming": True}}
        (directory / "consul.json").write_text(json.dumps(settings))

    def command(self) -> list[str]:
        mode = ["-server", "-bootstrap-expect", str(self.of), "-data-dir", str(self.directory / "data")] if self.keep else ["-dev"]
        mode += [text for other in self.join for text in ("-retry-join", f"127.0.0.1:{other.lan_port}")]
        names = ["-http-port", "-dns-port", "-grpc-port", "-server-port", "-serf-lan-port", "-serf-wan-port"]
        ports = [text for name, port in zip(names, [self.port, *self._others], strict=True) for text in (name, str(port))]
        name = "test" if self.of == 1 else f"test-{self.port}"
        return [
            str(self.binary), "agent", *mode, "-node", name, "-bind", "127.0.0.1", "-client", "127.0.0.1", *ports,
            "-log-level", "warn", "-config-file", "consul.json",
        ]  # fmt: skip

    def ports(self) -> list[int]:
        return [self.port]

    @property
    def lan_port(self) -> int:
        """Where others join it."""
        return self._others[3]

    def wait_ready(self) -> None:
        super().wait_ready()
        if len(self.join) + 1 < self.of:
            return  # no leader before all are there
        self.wait_leader()

    def wait_leader(self) -> None:
        """Until it knows one, and of the nodes."""
        if not wait_until(self._leads, LEADER_LIMIT_S, self.pid):
            raise PeerFailedError(f"consul has no leader:\n{self.output()[-2000:]}")

    def is_leader(self) -> bool:
        """Whether it is the leader of those that it elects with."""
        return bool(self.ask("GET", "/v1/status/leader") == f"127.0.0.1:{self._others[2]}")

    def _leads(self) -> bool:
        try:
            return len(self.ask("GET", "/v1/status/leader")) > 2 and len(self.ask("GET", "/v1/catalog/nodes")) > 0
        except (OSError, AssertionError, http.client.HTTPException):
            return False

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One request with the management token; the JSON of the answer, None for none."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body)
            link.request(method, path, sent, {"X-Consul-Token": self.MANAGEMENT} if self.acl else {})
            answer = link.getresponse()
            text = answer.read()
        finally:
            link.close()
        assert answer.status == 200, f"{method} {path}: {answer.status} {text!r}"
        return json.loads(text) if text[:1] in (b"{", b"[", b'"') else None

    def put(self, key: str, text: str) -> None:
        """A key of the key-value store."""
        self.ask("PUT", f"/v1/kv/{quote(key)}", text.encode())

    def register(self, service: str, port: int, *, id: str = "", **more: Any) -> None:
        """A service of this agent, without a check unless `more` has one."""
        body = {"Name": service, "ID": id or f"{service}-{port}", "Address": "127.0.0.1", "Port": port, **more}
        self.ask("PUT", "/v1/agent/service/register", body)

    def deregister(self, id: str) -> None:
        self.ask("PUT", f"/v1/agent/service/deregister/{id}")
