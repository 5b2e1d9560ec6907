"""The choice of a filter chain beside its twin, on written and on generated matches."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from meshproxy.workers.chain_match import try_choice

from meshproxy.model import ChainMatch
from meshproxy.model.chain_match import overlap
from tests.oracles.chain_match import Connection, Place, choose

repeatable = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

HERE = Place(ip_address("10.0.0.1"), 443)
CLIENT = Place(ip_address("192.0.2.1"), 5000)


def packed(place: Place) -> tuple[int, bytes, int]:
    if place.ip is None:
        return 0, bytes(16), place.port
    return place.ip.version, place.ip.packed if place.ip.version == 6 else bytes(10) + b"\xff\xff" + place.ip.packed, place.port


def fields(connection: Connection) -> dict:
    return {
        "local": packed(connection.local), "remote": packed(connection.remote), "direct_remote": packed(connection.direct_remote),
        "sni": None if connection.sni is None else connection.sni.encode(),
        "transport_protocol": None if connection.transport_protocol is None else connection.transport_protocol.encode(),
        "offered_alpn": None if connection.offered_alpn is None else [name.encode() for name in connection.offered_alpn],
    }  # fmt: skip


def chosen(matches: list[ChainMatch], connection: Connection) -> int | None:
    [said] = try_choice(matches, [fields(connection)])
    assert said == choose(matches, connection)
    return said


def seen(sni: str | None = None, alpn: tuple[str, ...] | None = None, *, remote: Place = CLIENT, local: Place = HERE) -> Connection:
    return Connection(local, remote, remote, sni, "tls", alpn)


def test_the_most_specific_name_wins() -> None:
    matches = [ChainMatch(server_names=name) for name in [("a.test",), ("*.test",), ("*.b.test",), ()]]
    expected = {"a.test": 0, "c.test": 1, "x.b.test": 2, "b.test": 1, "x.y.b.test": 2, "other": 3, None: 3, "test": 3, "x.test.": 3}

    assert {sni: chosen(matches, seen(sni)) for sni in expected} == expected


def test_there_is_no_way_back() -> None:
    """A connection that has gone by a chain's name is not for the others any more."""
    matches = [ChainMatch(server_names=("a.test",), application_protocols=("h2",)), ChainMatch()]

    assert chosen(matches, seen("a.test", ("h2",))) == 0
    assert chosen(matches, seen("a.test", ("http/1.1",))) is None
    assert chosen(matches, seen("b.test", ("h2",))) == 1


def test_a_port_that_is_named_decides_alone() -> None:
    matches = [ChainMatch(destination_port=443, server_names=("a.test",)), ChainMatch()]

    assert chosen(matches, seen("b.test")) is None
    assert chosen(matches, seen("b.test", local=Place(HERE.ip, 80))) == 1


def test_the_clients_order_of_protocols_decides() -> None:
    matches = [ChainMatch(application_protocols=("h2",)), ChainMatch(application_protocols=("http/1.1",)), ChainMatch()]

    assert [chosen(matches, seen(None, alpn)) for alpn in (("http/1.1", "h2"), ("x", "h2"), ("x",), None)] == [1, 0, 2, 2]


@pytest.mark.parametrize(
    ("client", "local", "near"),
    [
        ("127.0.0.1", "127.0.0.1", True), ("127.0.0.2", "127.0.0.1", False), ("127.0.0.2", "127.0.0.2", True), ("::1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.1", True), ("192.0.2.1", "10.0.0.1", False), (None, "10.0.0.1", True),
    ],
)  # fmt: skip
def test_source_types(client: str | None, local: str, near: bool) -> None:
    matches = [ChainMatch(source_type="same_ip_or_loopback"), ChainMatch(source_type="external")]
    remote = Place(ip_address(client) if client else None, 5000)

    assert chosen(matches, seen(remote=remote, local=Place(ip_address(local), 443))) == (0 if near else 1)


def test_both_source_addresses_count() -> None:
    """A PROXY header names the remote; the direct one is the proxy's."""
    matches = [ChainMatch(direct_source_prefix_ranges=("10.0.0.0/8",), source_prefix_ranges=("192.0.2.0/24",)), ChainMatch()]

    assert chosen(matches, Connection(HERE, CLIENT, Place(ip_address("10.1.1.1"), 1))) == 0
    assert chosen(matches, Connection(HERE, Place(ip_address("10.1.1.1"), 1), Place(ip_address("10.1.1.1"), 1))) is None
    assert chosen(matches, Connection(HERE, CLIENT, CLIENT)) == 1


def test_a_range_for_the_other_family_is_no_match() -> None:
    matches = [ChainMatch(source_prefix_ranges=("::/0",))]

    assert chosen(matches, seen()) is None
    assert chosen(matches, seen(remote=Place(ip_address("2001:db8::1"), 1))) == 0


def test_no_chains() -> None:
    assert try_choice([], [fields(seen())]) == [None]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ChainMatch(), ChainMatch()),
        (ChainMatch(server_names=("a.test", "b.test")), ChainMatch(server_names=("c.test", "B.test"))),
        (ChainMatch(), ChainMatch(prefix_ranges=("0.0.0.0/0",))),
        (ChainMatch(prefix_ranges=("10.1.0.0/8",)), ChainMatch(prefix_ranges=("10.0.0.0/8",))),
        (ChainMatch(source_type="any"), ChainMatch(source_ports=(), source_prefix_ranges=("::/0",))),
    ],
)
def test_overlaps_are_found(first: ChainMatch, second: ChainMatch) -> None:
    assert overlap([ChainMatch(destination_port=1), first, second]) == (1, 2)


def test_what_differs_in_one_criterion_does_not_overlap() -> None:
    matches = [ChainMatch(server_names=("a.test",)), ChainMatch(server_names=("*.test",)), ChainMatch(transport_protocol="tls")]

    assert overlap(matches) is None


IPS = st.sampled_from(["127.0.0.1", "127.0.0.2", "10.0.0.1", "10.0.0.2", "10.1.0.1", "::1", "2001:db8::1", "255.255.255.255"])
PLACES = st.builds(Place, st.one_of(IPS.map(ip_address), st.none()), st.sampled_from([80, 443, 5000]))
RANGES = st.lists(
    st.sampled_from([
        "0.0.0.0/0", "10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/16", "10.0.0.1/32", "127.0.0.0/8", "::/0", "::1/128", "2001:db8::/31",
    ]),
    max_size=2, unique=True,
).map(tuple)  # fmt: skip
NAMES = ["a.test", "*.test", "*.a.test", "b.a.test", "*.b.a.test"]
PROTOCOLS = ["h2", "http/1.1", "istio"]
MATCHES = st.builds(
    ChainMatch,
    destination_port=st.sampled_from([0, 0, 0, 443, 80]), prefix_ranges=RANGES,
    server_names=st.lists(st.sampled_from(NAMES), max_size=2, unique=True).map(tuple),
    transport_protocol=st.sampled_from(["", "", "tls", "raw_buffer"]),
    application_protocols=st.lists(st.sampled_from(PROTOCOLS), max_size=2, unique=True).map(tuple),
    direct_source_prefix_ranges=RANGES, source_type=st.sampled_from(["any", "any", "same_ip_or_loopback", "external"]),
    source_prefix_ranges=RANGES, source_ports=st.sampled_from([(), (), (5000,), (80, 443)]),
)  # fmt: skip
# Matches that differ from each other in little: else the first criterion decides nearly always.
ALIKE = st.builds(
    lambda match, names, ports: ChainMatch(
        server_names=tuple(names), source_ports=ports, source_type=match.source_type, prefix_ranges=match.prefix_ranges,
    ),
    MATCHES, st.lists(st.sampled_from(NAMES), max_size=2, unique=True), st.sampled_from([(), (5000,), (80, 443)]),
)  # fmt: skip
CONNECTIONS = st.builds(
    Connection, PLACES, PLACES, PLACES, st.sampled_from([None, "a.test", "x.test", "b.a.test", "c.b.a.test", "test", "x.test.", ".test"]),
    st.sampled_from([None, "tls", "raw_buffer"]), st.one_of(st.none(), st.lists(st.sampled_from([*PROTOCOLS, "x"]), max_size=3).map(tuple)),
)  # fmt: skip


@given(st.lists(st.one_of(MATCHES, ALIKE), min_size=1, max_size=6), st.lists(CONNECTIONS, min_size=4, max_size=12))
@repeatable
def test_whatever_is_configured(matches: list[ChainMatch], connections: list[Connection]) -> None:
    while (pair := overlap(matches)) is not None:
        del matches[pair[1]]

    said = try_choice(matches, [fields(connection) for connection in connections])

    assert said == [choose(matches, connection) for connection in connections]


@given(st.lists(ALIKE, min_size=2, max_size=5), CONNECTIONS)
@repeatable
def test_what_is_not_refused_is_never_in_doubt(matches: list[ChainMatch], connection: Connection) -> None:
    """The twin fails where two chains are left."""
    assume(overlap(matches) is None)

    choose(matches, connection)
