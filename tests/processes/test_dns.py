"""Names of a cluster, by a real name server that the machine's own resolv.conf names: in a mount namespace it may be the test's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.peers.dnsmasq import Dnsmasq
from tests.peers.process import PeerMissingError, free_ports, program
from tests.support.load import Load
from tests.support.name_server import SlowNameServer
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import ROOT, Node, wait_until
from tests.support.wire import Client, ask, get

SERVER, SLOW_SERVER = "127.0.53.1", "127.0.53.2"
DNS_PORT = 53
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
PATIENCE_S = 30.0


def mesh(port: int, listen: int = 0, by_ttl: str = "true") -> str:
    return f"""
listeners:
- {{name: ingress, address: "127.0.0.1:{listen}", to: web}}
clusters:
  web:
    endpoints: web:{port}
    dns_lookup_family: v4_only
    dns_refresh: 1h
    respect_dns_ttl: {by_ttl}
"""


def on_another_machine(directory: Path, command: list[str]) -> list[str]:
    """The command, but it sees resolv.conf and hosts of `directory` in place of the machine's."""
    shown = "".join(f"mount --bind {directory / name} /etc/{name} && " for name in ("resolv.conf", "hosts"))
    return ["unshare", "--mount", "sh", "-c", f'{shown}exec "$@"', "sh", *command]


class NodeOfAnotherMachine(Node):
    """Its machine's names are all at one name server."""

    def __init__(self, *arguments: Any, server: str, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        (self.directory / "resolv.conf").write_text(f"search test\nnameserver {server}\n")
        (self.directory / "hosts").write_text("127.0.0.1 localhost\n")

    def command(self) -> list[str]:
        return on_another_machine(self.directory, super().command())


class NodeThatAsks(NodeOfAnotherMachine):
    """Started as soon as it has asked the slow server."""

    def __init__(self, *arguments: Any, slow: SlowNameServer, **settings: Any) -> None:
        super().__init__(*arguments, server=SLOW_SERVER, **settings)
        self.slow = slow

    def wait_ready(self) -> None:
        assert wait_until(self.slow.asked.is_set, PATIENCE_S, self.pid), self.output()


@pytest.fixture(autouse=True)
def needed() -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0:
        pytest.skip("only root, where mount namespaces are allowed, can show a node another /etc/resolv.conf")
    try:
        program("dnsmasq", "dnsmasq-base")
    except PeerMissingError as error:
        pytest.skip(str(error))


def here(connection: Connection, request: Request) -> None:
    """Says which of the origin's addresses was asked."""
    said = connection.sock.getsockname()[0].encode()
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said))


def test_a_node_follows_a_name_by_its_ttl(tmp_path: Path) -> None:
    with Origin(here, host="0.0.0.0") as origin:
        node = NodeOfAnotherMachine(tmp_path / "node", mesh(origin.port), workers=2, server=SERVER)
        with Dnsmasq(tmp_path / "dns", DNS_PORT, {"web.test": FIRST}, address=SERVER, ttl_s=1) as server, node:
            port = node.port_of("ingress")

            def answer() -> bytes:
                return ask(port, get("/", "mesh.test", "Connection: close")).body

            assert wait_until(lambda: answer() == FIRST.encode(), PATIENCE_S, node.pid), node.output()
            server.change({"web.test": SECOND})
            assert wait_until(lambda: {answer() for _ in range(8)} == {SECOND.encode()}, PATIENCE_S, node.pid), node.output()
            assert node.wreckage() == []


@pytest.mark.parametrize("by_ttl", ["true", "false"])
def test_the_first_connection_is_answered_by_an_endpoint(tmp_path: Path, by_ttl: str) -> None:
    (port,) = free_ports(1)
    with Origin(here, host="0.0.0.0") as origin, SlowNameServer(SLOW_SERVER, DNS_PORT, FIRST) as slow:
        text = mesh(origin.port, port, by_ttl)
        with NodeThatAsks(tmp_path / "node", text, workers=2, slow=slow) as node, Client(port) as client:
            client.send(get("/"))
            slow.may_answer.set()
            said = client.answer()

            assert (said.status, said.body) == (200, FIRST.encode()), node.output()
            assert node.wreckage() == []


def test_a_reload_that_moves_a_route_to_a_new_dns_cluster_fails_nobody(tmp_path: Path) -> None:
    with Origin() as before, Origin() as after, SlowNameServer(SLOW_SERVER, DNS_PORT, FIRST) as slow, ThreadPoolExecutor(1) as beside:
        settled = f"listeners: [{{name: ingress, address: '127.0.0.1:0', to: old}}]\nclusters: {{old: '127.0.0.1:{before.port}'}}"
        with NodeOfAnotherMachine(tmp_path / "node", settled, workers=2, server=SLOW_SERVER) as node:
            port = node.port_of("ingress")
            with Load(port) as load:
                node.configure(mesh(after.port))
                reloading = beside.submit(node.reload)
                assert slow.asked.wait(PATIENCE_S)
                load.wait_answers(20)
                assert after.seen.empty()
                slow.may_answer.set()
                done = reloading.result()
                load.wait_answers(200)
                report = load.stop()

            assert (done.returncode, dict(report.failures)) == (0, {}), done.stderr
            assert not after.seen.empty()
            assert node.wreckage() == []


BOTH_RESOLVERS = """
import socket, sys
from meshproxy.discovery.dns import V4, system_lookup
from meshproxy.discovery.name_servers import NameServers
def said(lookup, name):
    try:
        return lookup(name, V4).addresses
    except OSError:
        return ["cannot tell"]
for name in sys.argv[1:]:
    print(name, said(system_lookup(socket.getaddrinfo), name), said(NameServers(), name))
"""


@pytest.mark.parametrize("options", ["", "options ndots:2\n"])
def test_names_mean_what_the_systems_resolver_makes_of_them(tmp_path: Path, options: str) -> None:
    (tmp_path / "resolv.conf").write_text(f"search nowhere.test in.test test\nnameserver {SERVER}\noptions timeout:1\n{options}")
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n10.8.8.8 listed.test listed\n")
    names = {"web.test": "10.0.0.1", "web.in.test": "10.0.0.2", "a.b.in.test": "10.0.0.3", "b.test": "10.0.0.4", "b.test.test": "10.0.0.5"}
    asked = ["web", "web.", "web.in", "a.b", "b.test", "b.test.", "WEB.in.test", "nobody", "listed", "listed.test", "listed.", "localhost"]
    with Dnsmasq(tmp_path / "dns", DNS_PORT, names, address=SERVER):
        command = on_another_machine(tmp_path, [sys.executable, "-c", BOTH_RESOLVERS, *asked])
        told = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=os.environ | {"PYTHONPATH": str(ROOT)})

    lines = told.stdout.splitlines()
    assert len(lines) == len(asked), told.stderr
    for line in lines:
        name, system, ours = re.fullmatch(r"(\S+) (\[.*\]) (\[.*\])", line).groups()
        assert ours == system, name
