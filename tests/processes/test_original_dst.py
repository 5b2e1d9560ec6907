"""Connections that netfilter brought here: the address that the client meant, and the listener that is for it.

Two network namespaces and a cable between them; REDIRECT and TPROXY, IPv4 and IPv6. Needs root and iptables, else it is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.peers import bootstrap
from tests.peers.process import PeerMissingError, program
from tests.processes.test_listener_filters import listener, proxy_protocol, saying, tls_inspector
from tests.support.namespaces import CLIENT_V4, CannotError, Hosts
from tests.support.processes import Node
from tests.support.wire import Stream

Json = dict[str, Any]

REDIRECTED, TAKEN = "192.0.2", "198.51.100"
REDIRECTED_6, TAKEN_6 = "2001:db8:1", "2001:db8:2"


class NodeInside(Node):
    """A node in a network namespace."""

    namespace = ""

    def command(self) -> list[str]:
        return [program("ip", "iproute2"), "netns", "exec", self.namespace, *super().command()]


def original_dst() -> Json:
    name = f"{bootstrap.TYPES}.extensions.filters.listener.original_dst.v3.OriginalDst"
    return {"name": "original", "typed_config": {"@type": name}}


def place(host: str, port: int) -> Json:
    return {"socket_address": {"address": host, "port_value": port}}


def entry(name: str, port: int, **settings: Any) -> Json:
    """A listener that takes what was brought here, for itself where no other is for it."""
    chains = [
        saying(f"{name}, by port", destination_port=83),
        saying(f"{name}, by range", prefix_ranges=[{"address_prefix": f"{prefix}.99", "prefix_len": 32} for prefix in (REDIRECTED, TAKEN)]),
        saying(name),
    ]  # fmt: skip
    both = {"address": place("0.0.0.0", port), "additional_addresses": [{"address": place("::", port)}]}
    return {"name": name, **both, **listener([original_dst()], chains, use_original_dst=True, **settings)}


def unbound(text: str, host: str, port: int, filters: list[Json] | None = None) -> Json:
    chains = [saying(text), saying(f"{text}, TLS", transport_protocol="tls")] if filters else [saying(text)]
    return {"name": f"{text} {host}", "address": place(host, port), "bind_to_port": False, **listener(filters or [], chains)}


CONFIG = bootstrap.bootstrap(
    [
        entry("redirect", 15001),
        entry("tproxy", 15002, transparent=True),
        unbound("exact", f"{REDIRECTED}.80", 80),
        unbound("exact", f"{TAKEN}.80", 80),
        unbound("exact", f"{REDIRECTED_6}::80", 80),
        unbound("exact", f"{TAKEN_6}::80", 80),
        unbound("any", "0.0.0.0", 81),
        unbound("any", "::", 81),
        unbound("filtered", f"{REDIRECTED}.84", 84, [proxy_protocol(), tls_inspector()]),
    ],
    [],
)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """The proxy's host with a node on it."""
    try:
        with Hosts() as made:
            lay_rules(made)
            node = NodeInside(tmp_path_factory.mktemp("inside"), CONFIG)
            node.namespace = made.proxy
            with node:
                yield made
            assert not node.wreckage(), node.output()[-3000:]
    except (CannotError, PeerMissingError) as error:
        pytest.skip(str(error))


def lay_rules(hosts: Hosts) -> None:
    for tables, version, redirected, taken in (("iptables", "-4", f"{REDIRECTED}.0/24", f"{TAKEN}.0/24"),
                                               ("ip6tables", "-6", f"{REDIRECTED_6}::/48", f"{TAKEN_6}::/48")):  # fmt: skip
        hosts.rule(tables, "-t", "nat", "-A", "PREROUTING", "-p", "tcp", "-d", redirected, "-j", "REDIRECT", "--to-ports", "15001")
        tproxy = ("-j", "TPROXY", "--on-port", "15002", "--tproxy-mark", "1/1")
        hosts.rule(tables, "-t", "mangle", "-A", "PREROUTING", "-p", "tcp", "-d", taken, *tproxy)
        hosts.rule("ip", version, "rule", "add", "fwmark", "1", "lookup", "100")
        hosts.rule("ip", version, "route", "add", "local", "default", "dev", "lo", "table", "100")


def said(hosts: Hosts, host: str, port: int, data: bytes = b"") -> str:
    with Stream(hosts.connect(host, port)) as client:
        client.send(data)
        return client.rest().decode()


@pytest.mark.parametrize(
    ("name", "prefix"), [("redirect", REDIRECTED), ("tproxy", TAKEN), ("redirect", f"{REDIRECTED_6}:"), ("tproxy", f"{TAKEN_6}:")],
)
def test_the_listener_for_the_address_that_was_meant(hosts: Hosts, name: str, prefix: str) -> None:
    """By the exact address; by the one for all addresses of the port; else the listener itself, by its own chains."""
    dot = ":" if ":" in prefix else "."

    assert said(hosts, f"{prefix}{dot}80", 80) == "exact"
    assert said(hosts, f"{prefix}{dot}80", 81) == "any"
    assert said(hosts, f"{prefix}{dot}81", 80) == name
    assert said(hosts, f"{prefix}{dot}81", 83) == f"{name}, by port"


@pytest.mark.parametrize(("name", "prefix"), [("redirect", REDIRECTED), ("tproxy", TAKEN)])
def test_chains_are_chosen_by_the_address_that_was_meant(hosts: Hosts, name: str, prefix: str) -> None:
    assert said(hosts, f"{prefix}.99", 80) == f"{name}, by range"


def test_who_comes_straight_to_the_listener_is_served_by_it(hosts: Hosts) -> None:
    assert said(hosts, "10.77.0.1", 15001) == "redirect"


def test_the_other_listeners_filters_have_their_turn(hosts: Hosts) -> None:
    header = f"PROXY TCP4 {CLIENT_V4} 203.0.113.1 1 80\r\n".encode()

    assert said(hosts, f"{REDIRECTED}.84", 84, header + b"plain") == "filtered"
    assert said(hosts, f"{REDIRECTED}.84", 84, b"no header") == ""
