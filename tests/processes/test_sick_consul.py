"""Consul that is sick in every way that a server can be: what was known is kept, it is told, and all goes on when it is well again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.peers.consul import Consul
from tests.peers.process import PeerMissingError
from tests.support.load import Load
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import Node, wait_until
from tests.support.wire import ask, get

PATIENCE_S = 60.0
ANSWERS = {
    "403": b"HTTP/1.1 403 Forbidden\r\nContent-Length: 17\r\n\r\nPermission denied",
    "429": b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 4\r\n\r\nslow",
    "500": b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 17\r\n\r\nNo cluster leader",
    "wrong JSON": b'HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 5\r\n\r\n{"a":',
    "other JSON": b"HTTP/1.1 200 OK\r\nX-Consul-Index: 7\r\nContent-Length: 1\r\n\r\n7",
    "silence": b"",
}

pytestmark = pytest.mark.slow


@pytest.fixture
def consul_of(tmp_path: Path) -> Iterator[Callable[..., Consul]]:
    with ExitStack() as stack:

        def start(name: str = "consul", **settings: Any) -> Consul:
            try:
                made = Consul(tmp_path / name, keep=True, **settings)
            except PeerMissingError as error:
                pytest.skip(str(error))
            stack.callback(made.stop)
            return made.start()

        yield start


@pytest.fixture
def origins() -> Iterator[list[Origin]]:
    with ExitStack() as stack:
        answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(2)]
        yield [stack.enter_context(Origin(lambda link, request, text=text: link.send(text))) for text in answers]


def mesh(consul: Consul) -> str:
    return f"""
consul:
  address: 127.0.0.1:{consul.port}
  config: mesh
  register: {{service: edge, listener: ingress, interval: 1s, leave_wait: 0}}
admin: 127.0.0.1:0
listeners:
- {{name: ingress, address: "127.0.0.1:0", catalog: "*.service.consul", to: web}}
clusters:
  web: {{discovery: {{consul: web}}}}
"""


def says(port: int, host: str) -> str:
    reply = ask(port, get("/", host, "Connection: close"))
    return reply.body.decode() if reply.status == 200 else str(reply.status)


def troubles(node: Node) -> dict[str, str]:
    """What status tells of each thing that is asked of Consul."""
    status = node.status()
    rows = [*status["sources"], *status["registrations"], *status["configurations"]]
    return {str(row.get("cluster") or row.get("service") or "configuration"): row["error"] for row in rows}


@pytest.mark.parametrize("sickness", ANSWERS)
def test_what_was_known_is_kept_and_told(
    node_of: Callable[..., Node], consul_of: Callable[..., Consul], origins: list[Origin], tmp_path: Path, sickness: str
) -> None:
    consul = consul_of()
    consul.put("mesh", "log_level: info\n")
    consul.register("web", origins[0].port)
    consul.register("db", origins[1].port)
    node = node_of(mesh(consul), environment={"MESHPROXY_STATE": str(tmp_path / "state")})
    port = node.port_of("ingress")
    watched = {"web", "(ingress)", "edge", "configuration", "db"}
    assert wait_until(lambda: set(troubles(node)) >= watched and not any(troubles(node).values()), PATIENCE_S), troubles(node)

    def reply(link: Connection, request: Request) -> None:
        if ANSWERS[sickness]:
            link.send(ANSWERS[sickness])

    os.kill(consul.pid, signal.SIGKILL)
    consul.stop()
    with Origin(reply, port=consul.port), Load(port, request=get("/", "db.service.consul")) as load:
        load.wait_answers(20)
        wanted = {"403": "403 Permission", "429": "429", "500": "500 No cluster", "wrong JSON": "no JSON", "silence": "no answer within"}

        def told() -> bool:
            seen = troubles(node)
            return all(wanted.get(sickness, "") in seen.get(name, "") and seen.get(name) for name in watched)

        assert wait_until(told, PATIENCE_S, node.pid), troubles(node)
        assert (says(port, "web.service.consul"), says(port, "db.service.consul"), says(port, "x.test")) == ("0", "1", "0")
        report = load.stop()
    assert dict(report.failures) == {}
    shown = requests.get(f"http://{node.status()['admin']}/stats?filter=update_failure", timeout=PATIENCE_S).text
    assert shown.count("update_failure") >= 4
    assert "update_failure: 0" not in shown

    consul.start()
    assert wait_until(lambda: not any(troubles(node).values()), PATIENCE_S, node.pid), troubles(node)
    consul.register("web", origins[1].port)
    assert wait_until(lambda: {says(port, "web.service.consul") for _ in range(8)} == {"0", "1"}, PATIENCE_S, node.pid)


def test_another_leader_of_three_servers(node_of: Callable[..., Node], consul_of: Callable[..., Consul], origins: list[Origin]) -> None:
    servers = [consul_of("a", of=3)]
    servers.append(consul_of("b", of=3, join=servers))
    servers.append(consul_of("c", of=3, join=servers))
    for server in servers:
        server.wait_leader()
    leader = next(server for server in servers if server.is_leader())
    asked = next(server for server in servers if server is not leader)
    asked.put("mesh", "log_level: info\n")
    asked.register("web", origins[0].port)
    node = node_of(mesh(asked))
    port = node.port_of("ingress")
    assert wait_until(lambda: says(port, "web.service.consul") == "0", PATIENCE_S, node.pid)
    with Load(port, request=get("/", "web.service.consul")) as load:
        load.wait_answers(20)
        os.kill(leader.pid, signal.SIGKILL)
        leader.stop()
        asked.wait_leader()

        def is_registered() -> bool:
            try:
                asked.register("web", origins[1].port)
            except AssertionError:
                return False  # not yet
            return True

        assert wait_until(is_registered, PATIENCE_S)
        assert wait_until(lambda: {says(port, "web.service.consul") for _ in range(8)} == {"0", "1"}, PATIENCE_S, node.pid), troubles(node)
        asked.put("mesh", "log_level: warning\n")
        assert wait_until(lambda: node.status()["config_version"] == "2", PATIENCE_S, node.pid)
        report = load.stop()
    assert dict(report.failures) == {}
    assert wait_until(lambda: not any(troubles(node).values()), PATIENCE_S, node.pid), troubles(node)
