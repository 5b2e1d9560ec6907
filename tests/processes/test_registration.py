"""A node that tells a real Consul what it is: registered while it serves, taken out before anybody is turned away."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.peers.consul import Consul
from tests.peers.process import PeerMissingError
from tests.support.certificates import Authority
from tests.support.load import Load
from tests.support.processes import Node, wait_until

PATIENCE_S = 30.0


@pytest.fixture
def consul_of(tmp_path: Path) -> Iterator[Callable[..., Consul]]:
    started: list[Consul] = []

    def start(**settings: Any) -> Consul:
        try:
            started.append(Consul(tmp_path / f"consul-{len(started)}", **settings))
        except PeerMissingError as error:
            pytest.skip(str(error))
        return started[-1].start()

    yield start
    for server in started:
        server.stop()


def mesh(server: str, register: str, more: str = "") -> str:
    return f"""consul: {{{server}, register: {register}}}
admin: 127.0.0.1:0
listeners:
- {{name: ingress, address: "127.0.0.1:0", respond: {{status: 200, body: one}}}}
- {{name: other, address: "127.0.0.1:0", respond: {{status: 200, body: two}}}}
{more}"""


def at(consul: Consul) -> str:
    return f'address: "127.0.0.1:{consul.port}"'


def passing(consul: Consul, service: str) -> list[tuple[str, int]]:
    rows = consul.ask("GET", f"/v1/health/service/{service}?passing=1")
    return [(row["Service"]["Address"], row["Service"]["Port"]) for row in rows]


def _state(node: Node) -> str:
    rows = node.status()["registrations"]
    return rows[0]["state"] if rows else "no agent"


def becomes(consul: Consul, service: str, *wanted: tuple[str, int]) -> None:
    assert wait_until(lambda: passing(consul, service) == list(wanted), PATIENCE_S), passing(consul, service)


def test_a_node_is_in_the_catalogue_while_it_serves(node_of: Callable[..., Node], consul_of: Callable[..., Consul]) -> None:
    consul = consul_of()
    what = "service: web, tags: [v2], meta: {version: 2, protocol: http}, weight: 7, check: [ttl, tcp, ready]"
    register = f"{{{what}, interval: 1s, leave_wait: 0}}"
    node = node_of(mesh(at(consul), register))
    becomes(consul, "web", ("127.0.0.1", node.port_of("ingress")))
    row = consul.ask("GET", "/v1/health/service/web")[0]
    assert (row["Service"]["Tags"], row["Service"]["Meta"]) == (["v2"], {"version": "2", "protocol": "http"})
    assert row["Service"]["Weights"]["Passing"] == 7
    assert {check["Type"] for check in row["Checks"] if check["ServiceID"]} == {"ttl", "tcp", "http"}
    assert wait_until(lambda: _state(node) == "registered", PATIENCE_S)
    shown = node.run_command("status").stdout
    assert "REGISTRATION" in shown
    assert "registered" in shown

    admin = node.status()["admin"]
    assert requests.post(f"http://{admin}/healthcheck/fail", timeout=PATIENCE_S).status_code == 200
    becomes(consul, "web")
    assert requests.post(f"http://{admin}/healthcheck/ok", timeout=PATIENCE_S).status_code == 200
    becomes(consul, "web", ("127.0.0.1", node.port_of("ingress")))
    assert "consul.registration.registered: 1" in requests.get(f"http://{admin}/stats", timeout=PATIENCE_S).text

    node.stop()
    assert consul.ask("GET", "/v1/health/service/web") == []


def test_what_consul_or_the_agent_lost_is_told_again(node_of: Callable[..., Node], consul_of: Callable[..., Consul]) -> None:
    consul = consul_of(keep=True)
    node = node_of(mesh(at(consul), "{service: web, id: web-1, interval: 1s, leave_wait: 0}"))
    place = ("127.0.0.1", node.port_of("ingress"))
    becomes(consul, "web", place)
    consul.deregister("web-1")
    node.wait_output('registered again service=web id=web-1 .*why="consul had lost it"')
    becomes(consul, "web", place)
    consul.register("web", 1, id="web-1")
    node.wait_output('registered again .*why="Port is not what it was told"')
    becomes(consul, "web", place)

    os.kill(node.status()["agent"]["pid"], signal.SIGKILL)
    os.kill(consul.pid, signal.SIGKILL)
    consul.stop()
    node.wait_output("registration failed service=web")
    assert wait_until(lambda: _state(node) == "failed", PATIENCE_S)
    consul.start()
    node.wait_output("registration is good again")
    becomes(consul, "web", place)


def test_an_upgrade_and_a_reload_leave_no_gap(node_of: Callable[..., Node], consul_of: Callable[..., Consul]) -> None:
    consul = consul_of()
    config = mesh(at(consul), "{service: web, interval: 1s, leave_wait: 0}")
    node = node_of(config)
    place = ("127.0.0.1", node.port_of("ingress"))
    becomes(consul, "web", place)
    gone: list[list] = []

    def look() -> bool:
        if (seen := passing(consul, "web")) != [place]:
            gone.append(seen)
        return False

    asked = node.run_command("upgrade")
    assert asked.returncode == 0, asked.stderr
    node.expected_end = True
    node.follow_upgrade()
    assert wait_until(lambda: look() or _state(node) == "registered", PATIENCE_S)
    node.configure(config.replace("service: web", "service: web, tags: [v3]"))
    assert node.reload().returncode == 0
    assert wait_until(lambda: look() or consul.ask("GET", "/v1/health/service/web")[0]["Service"]["Tags"] == ["v3"], PATIENCE_S)
    assert gone == []
    node.configure(mesh(at(consul), "[]"))
    assert node.reload().returncode == 0
    becomes(consul, "web")


def test_it_is_out_of_the_catalogue_before_it_refuses_anybody(node_of: Callable[..., Node], consul_of: Callable[..., Consul]) -> None:
    consul = consul_of()
    node = node_of(mesh(at(consul), "[{service: web, leave_wait: 2s}, {service: more, listener: other, leave_wait: 0}]"))
    port = node.port_of("ingress")
    becomes(consul, "web", ("127.0.0.1", port))
    becomes(consul, "more", ("127.0.0.1", node.port_of("other")))
    assert node.run_command("drain", "--listener", "other").returncode == 0
    assert passing(consul, "more") == []
    assert passing(consul, "web") == [("127.0.0.1", port)]
    assert node.reload().returncode == 0
    becomes(consul, "more", ("127.0.0.1", node.port_of("other")))

    with Load(port) as load:
        load.wait_answers(20)
        os.kill(node.pid, signal.SIGTERM)
        becomes(consul, "web")
        load.wait_answers(200)  # nobody that did not hear of it yet is turned away
        report = load.stop()
    assert dict(report.failures) == {}


def test_a_consul_that_hangs_holds_up_neither_traffic_nor_the_end(node_of: Callable[..., Node], consul_of: Callable[..., Consul]) -> None:
    consul = consul_of()
    node = node_of(mesh(at(consul), "{service: web, interval: 1s}"))
    becomes(consul, "web", ("127.0.0.1", node.port_of("ingress")))
    os.kill(consul.pid, signal.SIGSTOP)
    try:
        with Load(node.port_of("ingress")) as load:
            load.wait_answers(200)
            report = load.stop()
        assert dict(report.failures) == {}
        done = node.run_command("stop", "--limit", "1")
        assert done.returncode == 0, done.stderr
        node.expected_end = True
    finally:
        os.kill(consul.pid, signal.SIGCONT)


def test_a_token_and_tls(node_of: Callable[..., Node], consul_of: Callable[..., Consul], tmp_path: Path) -> None:
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    cert, key = authority.issue("consul.test").write(tmp_path, "server")
    client_cert, client_key = authority.issue("node.test").write(tmp_path, "client")
    consul = consul_of(acl=True, tls=(ca, cert, key))
    rules = 'service "web" { policy = "write" }'
    policy = consul.ask("PUT", "/v1/acl/policy", {"Name": "web", "Rules": rules})
    token = consul.ask("PUT", "/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"]
    (tmp_path / "token").write_text("00000000-0000-0000-0000-000000000000\n")
    secured = (
        f'address: "127.0.0.1:{consul.https_port}", token_file: {tmp_path}/token, ca_file: {ca}, '
        f"cert_file: {client_cert}, key_file: {client_key}, server_name: consul.test"
    )
    node = node_of(mesh(secured, "{service: web, interval: 1s, leave_wait: 0}"))
    node.wait_output("registration failed service=web .*403")
    (tmp_path / "token").write_text(f"{token}\n")
    becomes(consul, "web", ("127.0.0.1", node.port_of("ingress")))
    node.stop()
    assert consul.ask("GET", "/v1/health/service/web") == []
