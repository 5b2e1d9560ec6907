"""One line makes every service of a real Consul's catalogue reachable by its name, while they come and go."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.peers.consul import Consul
from tests.peers.process import PeerMissingError
from tests.support.load import Load
from tests.support.origin import Origin
from tests.support.processes import Node, wait_until
from tests.support.wire import ask, get

PATIENCE_S = 30.0


@pytest.fixture
def consul_of(tmp_path: Path) -> Iterator[Callable[..., Consul]]:
    with ExitStack() as stack:

        def start(**settings: object) -> Consul:
            try:
                return stack.enter_context(Consul(tmp_path / "consul", **settings))
            except PeerMissingError as error:
                pytest.skip(str(error))

        yield start


@pytest.fixture
def origins() -> Iterator[list[Origin]]:
    """Three that say which they are."""
    with ExitStack() as stack:
        answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(3)]
        yield [stack.enter_context(Origin(lambda link, request, text=text: link.send(text))) for text in answers]


def mesh(consul: Consul, catalog: str, more: str = "", token: str = "") -> str:
    return f"""consul: {{address: "127.0.0.1:{consul.port}"{f", token: {token}" if token else ""}}}
admin: 127.0.0.1:0
listeners:
- {{name: mesh, address: "127.0.0.1:0", catalog: {catalog}{more}}}
clusters:
  base: {{connect_timeout: 1s}}
"""


class Front:
    def __init__(self, node: Node) -> None:
        self.node = node
        self.port = node.port_of("mesh")

    def says(self, host: str) -> str:
        """The body, or the status of what is no 200."""
        answer = ask(self.port, get("/", host, "Connection: close"))
        return answer.body.decode() if answer.status == 200 else str(answer.status)

    def becomes(self, host: str, wanted: str) -> None:
        assert wait_until(lambda: self.says(host) == wanted, PATIENCE_S, self.node.pid), (self.says(host), self.node.output()[-3000:])

    def admin(self, path: str) -> str:
        return requests.get(f"http://{self.node.status()['admin']}{path}", timeout=PATIENCE_S).text


def test_services_come_and_go_without_a_reload(
    node_of: Callable[..., Node], consul_of: Callable[..., Consul], origins: list[Origin]
) -> None:
    consul = consul_of()
    consul.register("web", origins[0].port, Tags=["mesh"], Meta={"protocol": "http"})
    consul.register("hidden", origins[1].port)
    catalog = '{domain: ["*.service.consul", "{service}.mesh.example"], tag: mesh, like: base}'
    front = Front(node_of(mesh(consul, catalog), workers=2))

    assert front.says("web.service.consul") == "0", "workers waited for the catalogue and for the service's instances"
    assert front.says("WEB.mesh.example:8080") == "0"
    assert front.says("hidden.service.consul") == front.says("web.elsewhere") == "404"
    with Load(front.port, request=get("/", "web.service.consul")) as load:
        load.wait_answers(20)
        consul.register("db", origins[1].port, Tags=["mesh"])
        front.becomes("db.service.consul", "1")
        consul.register("db", origins[2].port, Tags=["mesh"])
        consul.deregister(f"db-{origins[1].port}")
        front.becomes("db.service.consul", "2")
        consul.deregister(f"db-{origins[2].port}")
        front.becomes("db.service.consul", "404")
        report = load.stop()
    assert dict(report.failures) == {}
    assert "connect_timeout" in front.node.run_command("config", "dump").stdout
    assert "nothing changes" in front.node.run_command("check", "--plan", str(front.node.config_file)).stdout
    assert "db::" not in front.admin("/clusters")
    row = next(row for row in front.node.status()["sources"] if row["source"] == "consul catalogue")
    assert (row["endpoints"], row["error"]) == (1, "")
    assert "consul.catalogue.services: 1" in front.admin("/stats")


def test_what_a_service_speaks_may_change(node_of: Callable[..., Node], consul_of: Callable[..., Consul], origins: list[Origin]) -> None:
    consul = consul_of()
    consul.register("web", origins[0].port, Meta={"protocol": "grpc"})
    consul.register("smtp", origins[1].port, Meta={"protocol": "tcp"})
    front = Front(node_of(mesh(consul, '"*.service.consul"')))
    dumped = front.node.run_command("config", "dump").stdout
    assert "protocol: http2" in dumped
    assert front.says("smtp.service.consul") == "404"
    assert "smtp::" in front.admin("/clusters")
    consul.register("web", origins[0].port, Meta={"protocol": "http"})
    front.becomes("web.service.consul", "0")


def test_reloads_upgrades_and_deaths_lose_no_service(
    node_of: Callable[..., Node], consul_of: Callable[..., Consul], origins: list[Origin]
) -> None:
    consul = consul_of(keep=True)
    consul.register("web", origins[0].port)
    node = node_of(mesh(consul, '"*.service.consul"'))
    front = Front(node)
    front.becomes("web.service.consul", "0")
    os.kill(consul.pid, signal.SIGKILL)
    consul.stop()
    node.wait_output("catalogue failed")
    with Load(front.port, request=get("/", "web.service.consul")) as load:
        load.wait_answers(20)
        node.configure(mesh(consul, '"*.service.consul"', ", respond: {status: 200, body: other}"))
        assert node.reload().returncode == 0
        assert front.says("unknown.example") == "other"
        agent = node.status()["agent"]["pid"]
        os.kill(agent, signal.SIGKILL)
        node.wait_status(lambda seen: seen["agent"]["pid"] not in (0, agent) and seen["agent"]["state"] == "READY")
        assert front.says("web.service.consul") == "0"
        load.wait_answers(50)
        report = load.stop()
    assert dict(report.failures) == {}
    asked = node.run_command("upgrade")
    assert asked.returncode == 0, asked.stderr
    node.follow_upgrade()
    node.expected_end = True
    assert front.says("web.service.consul") == "0"
    consul.start()
    consul.register("db", origins[1].port)
    front.becomes("db.service.consul", "1")
    node.configure(mesh(consul, '"*.service.consul"').replace('catalog: "*.service.consul"', "respond: {status: 200, body: none}"))
    assert node.reload().returncode == 0
    front.becomes("web.service.consul", "none")
    assert "web::" not in front.admin("/clusters")


def test_an_empty_catalogue_is_believed_after_a_while_and_acls_are_told(
    node_of: Callable[..., Node], consul_of: Callable[..., Consul], origins: list[Origin]
) -> None:
    consul = consul_of(acl=True)
    consul.register("web", origins[0].port)
    token = f"{Consul.MANAGEMENT}"
    front = Front(node_of(mesh(consul, '{keep_last: 1h}', token=token)))
    front.becomes("web.service.consul", "0")
    consul.deregister(f"web-{origins[0].port}")
    front.node.wait_output("catalogue has no services any more services=1")
    assert front.says("web.service.consul") == "0"
    assert token not in front.node.run_command("config", "dump").stdout
    front.node.configure(mesh(consul, "{keep_last: 10ms}", token=token))
    assert front.node.reload().returncode == 0
    front.becomes("web.service.consul", "404")

    rules = consul.ask("PUT", "/v1/acl/policy", {"Name": "none", "Rules": 'key "x" { policy = "read" }'})
    blind = consul.ask("PUT", "/v1/acl/token", {"Policies": [{"ID": rules["ID"]}]})["SecretID"]
    front.node.configure(mesh(consul, "{keep_last: 10ms}", token=blind))
    assert front.node.reload().returncode == 0
    front.node.wait_output("catalogue failed error=.*hidden by ACLs")
