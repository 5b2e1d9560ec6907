"""Names of a cluster, by a real name server that the machine's own resolv.conf names: in a mount namespace it may be the test's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.dnsmasq import Dnsmasq
from tests.peers.process import PeerMissingError, program
from tests.support.origin import Connection, Origin, Request
from tests.support.processes import ROOT, Node, wait_until
from tests.support.wire import ask, get

SERVER = "127.0.53.1"
DNS_PORT = 53
FIRST, SECOND = "127.0.0.1", "127.0.0.2"
PATIENCE_S = 30.0


def mesh(port: int) -> str:
    return f"""
listeners:
- {{name: ingress, address: "127.0.0.1:0", to: web}}
clusters:
  web:
    endpoints: web:{port}
    dns_lookup_family: v4_only
    dns_refresh: 1h
    respect_dns_ttl: true
"""


def on_another_machine(directory: Path, command: list[str]) -> list[str]:
    """The command, but it sees resolv.conf and hosts of `directory` in place of the machine's."""
    shown = "".join(f"mount --bind {directory / name} /etc/{name} && " for name in ("resolv.conf", "hosts"))
    return ["unshare", "--mount", "sh", "-c", f'{shown}exec "$@"', "sh", *command]


class NodeOfAnotherMachine(Node):
    def command(self) -> list[str]:
        return on_another_machine(self.directory, super().command())


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
        node = NodeOfAnotherMachine(tmp_path / "node", mesh(origin.port), workers=2)
        (node.directory / "resolv.conf").write_text(f"search test\nnameserver {SERVER}\n")
        (node.directory / "hosts").write_text("127.0.0.1 localhost\n")
        with Dnsmasq(tmp_path / "dns", DNS_PORT, {"web.test": FIRST}, address=SERVER, ttl_s=1) as server, node:
            port = node.port_of("ingress")

            def answer() -> bytes:
                return ask(port, get("/", "mesh.test", "Connection: close")).body

            assert wait_until(lambda: answer() == FIRST.encode(), PATIENCE_S, node.pid), node.output()
            server.change({"web.test": SECOND})
            assert wait_until(lambda: {answer() for _ in range(8)} == {SECOND.encode()}, PATIENCE_S, node.pid), node.output()
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
