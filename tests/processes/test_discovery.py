"""Endpoints that are found, end to end: a real Consul, files and an SRV name tell a real node where to send requests."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.peers.consul import Consul
from tests.peers.process import PeerMissingError
from tests.support.load import Load
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import Node, wait_until
from tests.support.wire import ask, get

PATIENCE_S = 30.0


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[Consul]:
    try:
        server = Consul(tmp_path / "consul", keep=True)
    except PeerMissingError as error:
        pytest.skip(str(error))
    with server:
        yield server


@pytest.fixture
def origins() -> Iterator[list[Origin]]:
    """Three that say which they are."""
    with ExitStack() as stack:
        yield [stack.enter_context(Origin(_saying(number))) for number in range(3)]


def _saying(number: int) -> Callable[[Connection, Request], None]:
    return lambda connection, request: connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number)


def mesh(discovery: str, consul: Consul | None = None, **settings: object) -> str:
    more = "".join(f", {name}: {value}" for name, value in settings.items())
    server = f'consul: "127.0.0.1:{consul.port}"\n' if consul is not None else ""
    return f"""{server}admin: 127.0.0.1:0
listeners:
- {{name: ingress, address: "127.0.0.1:0", to: web}}
clusters:
  web: {{discovery: {discovery}{more}}}
"""


class Front:
    """A node and its port."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.port = node.port_of("ingress")

    def who(self) -> str:
        """Which origin answers; "503" when there is none."""
        answer = ask(self.port, get("/", "mesh.test", "Connection: close"))
        return answer.body.decode() if answer.status == 200 else str(answer.status)

    def becomes(self, *wanted: str) -> None:
        seen: list[set[str]] = [set()]

        def look() -> bool:
            seen[0] = {self.who() for _ in range(12)}
            return seen[0] == set(wanted)

        assert wait_until(look, PATIENCE_S, self.node.pid), (seen, self.node.output()[-3000:])

    def admin(self, path: str) -> str:
        return requests.get(f"http://{self.node.status()['admin']}{path}", timeout=PATIENCE_S).text

    def stat(self, name: str) -> int:
        found = re.search(rf"^cluster\.web\.{name}: (\d+)$", self.admin("/stats"), re.MULTILINE)
        assert found is not None, name
        return int(found[1])


def test_a_service_is_followed_from_its_first_request_on(node_of: Callable[..., Node], consul: Consul, origins: list[Origin]) -> None:
    one, two, three = origins
    consul.register("web", one.port, Tags=["v2"])
    consul.register("web", two.port, Tags=["v1"])
    front = Front(node_of(mesh("{consul: {service: web, tag: v2}}", consul), workers=2))

    assert front.who() == "0", "workers waited for the first answer"
    consul.register("web", three.port, Tags=["v2"])
    front.becomes("0", "2")
    consul.deregister(f"web-{one.port}")
    front.becomes("2")
    consul.register("web", three.port, Tags=["v2"], Weights={"Passing": 5, "Warning": 1})
    assert wait_until(lambda: f"127.0.0.1:{three.port}::weight::5" in front.admin("/clusters"), PATIENCE_S)
    shown = front.admin("/clusters")
    assert "web::source::consul web::endpoints::1" in shown
    assert "web::source::consul web::error::none" in shown
    assert (front.stat("update_failure"), front.stat("update_success") >= 4) == (0, True)


def test_a_check_that_fails_takes_an_instance_out(node_of: Callable[..., Node], consul: Consul, origins: list[Origin]) -> None:
    check = {"TTL": "1h", "Status": "passing", "CheckID": "alive"}
    consul.register("web", origins[0].port, Check=check)
    consul.register("web", origins[1].port)
    front = Front(node_of(mesh("{consul: web}", consul)))
    front.becomes("0", "1")
    consul.ask("PUT", "/v1/agent/check/fail/alive")
    front.becomes("1")
    consul.ask("PUT", "/v1/agent/check/pass/alive")
    front.becomes("0", "1")


def test_a_killed_consul_takes_nothing_away(node_of: Callable[..., Node], consul: Consul, origins: list[Origin]) -> None:
    consul.register("web", origins[0].port)
    front = Front(node_of(mesh("{consul: web}", consul)))
    with Load(front.port) as load:
        load.wait_answers(20)
        os.kill(consul.pid, signal.SIGKILL)
        front.node.wait_output('source failed cluster=web source="consul web"')
        load.wait_answers(100)
        assert "web::source::consul web::error::consul at" in front.admin("/clusters")
        assert front.stat("update_failure") >= 1
        consul.stop()
        consul.start()
        consul.register("web", origins[1].port)
        front.becomes("0", "1")
        report = load.stop()

    assert dict(report.failures) == {}


def test_an_empty_catalogue_is_believed_after_a_while(node_of: Callable[..., Node], consul: Consul, origins: list[Origin]) -> None:
    consul.register("web", origins[0].port)
    front = Front(node_of(mesh("{consul: web}", consul, keep_last="1h")))
    front.becomes("0")
    consul.deregister(f"web-{origins[0].port}")
    front.node.wait_output("source has no endpoints any more cluster=web")
    assert (front.who(), front.stat("update_empty")) == ("0", 1)

    front.node.configure(mesh("{consul: web}", consul, keep_last="10ms"))
    assert front.node.reload().returncode == 0
    front.becomes("503")


def test_endpoints_outlive_reloads_and_the_agent(node_of: Callable[..., Node], consul: Consul, origins: list[Origin]) -> None:
    consul.register("web", origins[0].port)
    node = node_of(mesh("{consul: web}", consul))
    front = Front(node)
    front.becomes("0")
    os.kill(consul.pid, signal.SIGKILL)
    consul.stop()
    node.configure(mesh("{consul: web}", consul, balance="random"))
    assert node.reload().returncode == 0
    assert front.who() == "0"
    agent = node.status()["agent"]["pid"]
    os.kill(agent, signal.SIGKILL)
    node.wait_status(lambda seen: seen["agent"]["pid"] not in (0, agent) and seen["agent"]["state"] == "READY")
    assert front.who() == "0"
    consul.start()
    consul.register("web", origins[1].port)
    front.becomes("0", "1")


def test_a_reload_to_a_found_cluster_fails_nobody(node_of: Callable[..., Node], consul: Consul, origins: list[Origin]) -> None:
    consul.register("web", origins[1].port)
    before = mesh("static", endpoints=f'"127.0.0.1:{origins[0].port}"')
    front = Front(node_of(before))
    with Load(front.port) as load:
        load.wait_answers(20)
        front.node.configure(mesh("{consul: web}", consul))
        assert front.node.reload().returncode == 0
        front.becomes("1")
        report = load.stop()

    assert dict(report.failures) == {}


def test_files_and_consul_together(node_of: Callable[..., Node], consul: Consul, origins: list[Origin], tmp_path: Path) -> None:
    folder = tmp_path / "endpoints"
    folder.mkdir()
    consul.register("web", origins[0].port)
    front = Front(node_of(mesh(f"[{{consul: web}}, {{files: {folder}/*.yaml}}]", consul, keep_last="10ms")))
    front.becomes("0")
    (folder / "a.yaml").write_text(f"- 127.0.0.1:{origins[1].port}\n")
    front.becomes("0", "1")
    (folder / "a.yaml").write_text(f"- 127.0.0.1:{origins[1].port}\n- {{address: 127.0.0.1:{origins[2].port}, weight: 2}}\n")
    front.becomes("0", "1", "2")
    (folder / "a.yaml").unlink()
    front.becomes("0")
