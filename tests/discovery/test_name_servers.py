"""Name servers asked directly: a real dnsmasq answers, resolv.conf and hosts are the test's own."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshproxy.discovery.dns import V4, V6, Found
from meshproxy.discovery.name_servers import NameServers, candidates
from tests.peers.dnsmasq import Dnsmasq
from tests.peers.process import PeerMissingError, free_ports

NAMES = {"web.test": "10.0.0.1", "six.test": "fd00::1", "deep.in.test": "10.0.0.2", "web.in.test": "10.0.0.3"}
RESOLV_CONF = "nameserver 127.0.0.1\noptions timeout:1\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dnsmasq]:
    [port] = free_ports(1)
    try:
        with Dnsmasq(tmp_path_factory.mktemp("dns"), port, NAMES, cname="alias.test,web.test,7") as running:
            yield running
    except PeerMissingError as error:
        pytest.skip(str(error))


class Machine:
    """A machine's two files, and the lookup that goes by them."""

    def __init__(self, directory: Path, port: int) -> None:
        self.resolv_conf, self.hosts = directory / "resolv.conf", directory / "hosts"
        self.resolv_conf.write_text(RESOLV_CONF)
        self.ask = NameServers(str(self.resolv_conf), str(self.hosts), port)


@pytest.fixture
def machine(tmp_path: Path, server: Dnsmasq) -> Machine:
    return Machine(tmp_path, server.port)


def test_an_answer_has_its_ttl(machine: Machine) -> None:
    assert machine.ask("web.test", V4) == Found(["10.0.0.1"], 60)
    assert machine.ask("six.test.", V6) == Found(["fd00::1"], 60)


def test_the_shortest_ttl_on_the_way_counts(machine: Machine) -> None:
    assert machine.ask("alias.test", V4) == Found(["10.0.0.1"], 7)


def test_no_such_name_and_no_such_address_are_answers(machine: Machine) -> None:
    assert machine.ask("nobody.test", V4) == Found([])
    assert machine.ask("web.test", V6) == Found([])


def test_a_server_that_will_not_tell_is_a_failure(machine: Machine) -> None:
    with pytest.raises(OSError, match=r"elsewhere\.example"):
        machine.ask("elsewhere.example", V4)


def test_a_server_that_is_silent_is_a_failure(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        machine = Machine(tmp_path, silent.getsockname()[1])

        with pytest.raises(OSError, match="timed out"):
            machine.ask("web.test", V4)


def test_a_file_that_makes_no_sense_is_a_failure(machine: Machine) -> None:
    machine.resolv_conf.write_text("nameserver nonsense\n")

    with pytest.raises(OSError, match=r"resolv\.conf: .*nonsense"):
        machine.ask("web.test", V4)


def test_without_a_file_this_machine_is_asked(tmp_path: Path, server: Dnsmasq) -> None:
    machine = Machine(tmp_path, server.port)
    machine.resolv_conf.unlink()

    assert machine.ask("web.test.", V4).addresses == ["10.0.0.1"]


def test_short_names_go_through_the_search_list(machine: Machine) -> None:
    machine.resolv_conf.write_text(f"{RESOLV_CONF}search nowhere.test in.test test\n")

    assert machine.ask("web", V4).addresses == ["10.0.0.3"], "the first domain that has it"
    assert machine.ask("six", V6).addresses == ["fd00::1"]
    assert machine.ask("deep.in", V4) == Found(["10.0.0.2"], 60), "as it stands it is refused, so the list is gone through"


def test_hosts_come_first_and_a_change_is_seen(machine: Machine) -> None:
    machine.hosts.write_text("10.9.9.9 Web.test alias # the machine's own\nfd00::9\tweb.test\nnonsense web.test\n\n127.0.0.1\n")

    assert machine.ask("WEB.test", V4) == Found(["10.9.9.9"])
    assert machine.ask("web.test", V6) == Found(["fd00::9"])
    assert machine.ask("six.test", V6) == Found(["fd00::1"], 60)
    fresh = machine.hosts.with_suffix(".new")
    fresh.write_text("10.9.9.8 web.test\n")
    os.replace(fresh, machine.hosts)
    assert machine.ask("web.test", V4) == Found(["10.9.9.8"])
    assert machine.ask("web.test", V6) == Found([]), "of the other family the servers know none"
    machine.hosts.unlink()
    assert machine.ask("web.test", V4) == Found(["10.0.0.1"], 60)


def test_another_resolv_conf_is_seen(machine: Machine) -> None:
    assert machine.ask("web.test", V4).addresses == ["10.0.0.1"]
    machine.resolv_conf.write_text(f"{RESOLV_CONF}search in.test\n")

    assert machine.ask("web", V4).addresses == ["10.0.0.3"]


@pytest.mark.parametrize(
    ("host", "ndots", "tried"),
    [
        ("web", 1, ["web.a.", "web.b.c.", "web."]),
        ("web.x", 1, ["web.x.", "web.x.a.", "web.x.b.c."]),
        ("web.x", 2, ["web.x.a.", "web.x.b.c.", "web.x."]),
        ("web", 0, ["web.", "web.a.", "web.b.c."]),
        ("web.", 5, ["web."]),
    ],
)
def test_the_order_of_names_is_resolv_confs(host: str, ndots: int, tried: list[str]) -> None:
    assert candidates(host, ["a.", "b.c.", "."], ndots) == tried
