"""Two sidecars of Consul Connect, a service behind each: what Consul's own launcher tells Envoy to do, a node does."""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.peers.consul import Consul
from tests.peers.process import Peer, PeerMissingError, free_ports
from tests.support.origin import Origin, answer
from tests.support.processes import COMMAND, Node, wait_until
from tests.support.wire import Client, ClosedError, get

PATIENCE_S = 30.0
ROOT = Path(__file__).resolve().parents[2]
TEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\napi"


def status_at(port: int, path: str = "/", method: str = "GET") -> int:
    """Of a request on a connection of its own; 0 for no answer."""
    try:
        with Client(port) as client:
            client.send(get(path, "mesh.test", "Connection: close", method=method))
            return client.answer().status
    except (ClosedError, ConnectionError):
        return 0


@dataclasses.dataclass
class Mesh:
    """`web` reaches `api` (HTTP) and `db` (TCP) by ports of its own sidecar."""

    consul: Consul
    api_port: int
    db_port: int
    nodes: dict[str, Node]

    def intend(self, destination: str, **source: Any) -> None:
        self.consul.ask("PUT", "/v1/config", {"Kind": "service-intentions", "Name": destination, "Sources": [{"Name": "web", **source}]})

    def api(self, path: str = "/", method: str = "GET") -> int:
        return status_at(self.api_port, path, method)

    def db(self) -> int:
        return status_at(self.db_port)

    def becomes(self, wanted: int, ask: Any) -> None:
        seen: list[int] = []

        def look() -> bool:
            seen.append(ask())
            return seen[-1] == wanted

        logs = lambda: {name: node.output()[-1500:] for name, node in self.nodes.items()}  # noqa: E731
        assert wait_until(look, PATIENCE_S), (seen[-5:], logs())


def launch(consul: Consul, service: str, admin: int) -> list[str]:
    """Consul's launcher of sidecars."""
    return [
        str(consul.binary), "connect", "envoy", "-sidecar-for", service, "-http-addr", f"127.0.0.1:{consul.port}",
        "-grpc-addr", f"127.0.0.1:{consul.grpc_port}", "-admin-bind", f"127.0.0.1:{admin}",
    ]  # fmt: skip


def bootstrap(consul: Consul, service: str) -> dict[str, Any]:
    """What `consul connect envoy` would start Envoy with."""
    (admin,) = free_ports(1)
    asked = [*launch(consul, service, admin), "-bootstrap"]
    made = subprocess.run(asked, capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    found: dict[str, Any] = json.loads(made.stdout)
    return found


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    directory = tmp_path_factory.mktemp("connect")
    with ExitStack() as stack:
        try:
            consul = stack.enter_context(Consul(directory / "consul"))
        except PeerMissingError as error:
            pytest.skip(str(error))
        for name, protocol in (("web", "http"), ("api", "http"), ("db", "tcp")):
            consul.ask("PUT", "/v1/config", {"Kind": "service-defaults", "Name": name, "Protocol": protocol})
        api_port, db_port, *public = free_ports(5)
        origins = {name: stack.enter_context(Origin(answer(TEXT))) for name in ("api", "db")}
        upstreams = [{"DestinationName": "api", "LocalBindPort": api_port}, {"DestinationName": "db", "LocalBindPort": db_port}]
        for name, port in zip(("web", "api", "db"), public, strict=True):
            proxy = {"LocalServiceAddress": "127.0.0.1", "Upstreams": upstreams if name == "web" else []}
            # Consul's own check of a sidecar is TCP and turns good after ten seconds: these have none.
            sidecar = {"Port": port, "Proxy": proxy, "Checks": []}
            consul.register(name, origins[name].port if name in origins else 1, id=name, Connect={"SidecarService": sidecar})
        nodes = {name: stack.enter_context(Node(directory / name, bootstrap(consul, name))) for name in ("web", "api", "db")}
        yield Mesh(consul, api_port, db_port, nodes)
    assert [line for node in nodes.values() for line in node.wreckage()] == []


def test_http_goes_through_both(mesh: Mesh) -> None:
    mesh.becomes(200, mesh.api)


def test_tcp_goes_through_both(mesh: Mesh) -> None:
    mesh.becomes(200, mesh.db)


def test_an_intention_refuses_connections(mesh: Mesh) -> None:
    mesh.intend("db", Action="deny")
    mesh.becomes(0, mesh.db)
    mesh.intend("db", Action="allow")
    mesh.becomes(200, mesh.db)


def test_an_intention_refuses_requests(mesh: Mesh) -> None:
    mesh.becomes(200, mesh.api)
    mesh.intend("api", Permissions=[
        {"Action": "deny", "HTTP": {"PathPrefix": "/admin"}}, {"Action": "allow", "HTTP": {"PathPrefix": "/", "Methods": ["GET"]}},
        {"Action": "deny", "HTTP": {"PathPrefix": "/"}},
    ])  # fmt: skip
    mesh.becomes(403, lambda: mesh.api("/admin"))
    assert mesh.api("/other") == 200
    assert mesh.api("/other", "DELETE") == 403
    mesh.intend("api", Action="allow")
    mesh.becomes(200, lambda: mesh.api("/admin"))


def test_who_has_no_certificate_of_the_mesh_is_not_served(mesh: Mesh) -> None:
    api = mesh.nodes["api"]
    port = api.port_of(next(row["name"] for row in api.status()["listeners"] if row["name"].startswith("public_listener")))
    with Client(port) as client:
        client.send(get("/"))
        assert b"200 OK" not in client.rest()


class Launched(Peer):
    """A sidecar that Consul's own launcher starts in Envoy's place: `consul connect envoy` becomes the node."""

    name = "meshproxy"

    def __init__(self, directory: Path, consul: Consul, service: str) -> None:
        super().__init__(directory)
        (self._admin,) = free_ports(1)
        self._consul = consul
        self._service = service
        self._program = directory / "envoy"
        self._program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} envoy "$@"\n')
        self._program.chmod(0o755)

    def command(self) -> list[str]:
        own = ["-envoy-binary", str(self._program), "--", "--concurrency", "1", "-l", "warning"]
        return [*launch(self._consul, self._service, self._admin), *own]

    def environment(self) -> dict[str, str]:
        own = {"MESHPROXY_CONTROL": str(self.directory / "control.sock"), "MESHPROXY_STATE": str(self.directory)}
        return {**super().environment(), **own, "PYTHONPATH": str(ROOT)}

    def ports(self) -> list[int]:
        return [self._admin]


def test_consuls_launcher_starts_it_in_envoys_place(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    port, public = free_ports(2)
    sidecar = {"Port": public, "Proxy": {"Upstreams": [{"DestinationName": "api", "LocalBindPort": port}]}, "Checks": []}
    mesh.consul.register("shop", 1, id="shop", Connect={"SidecarService": sidecar})
    with Launched(tmp_path / "shop", mesh.consul, "shop") as shop:
        assert wait_until(lambda: status_at(port) == 200, PATIENCE_S, shop.pid), shop.output()[-2000:]
